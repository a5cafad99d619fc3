"""The one training loop. It knows neither distillation nor compression: loss and evaluator come in as functions.

All that changes while a network trains is in `Training`, saved together. The plan (epochs, schedule) is fixed; the budget only says
where today's slice of it ends, so a run in ten sessions takes the same steps as a run in one. What a clock decides (when to save, when
to stop) never reaches the arithmetic.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from torch import Tensor, nn

from kit.config.schema import Train
from kit.console import Log, progress
from kit.data.loader import Batches
from kit.device import Device
from kit.files import StorageError
from kit.rng import derive, seed_global
from kit.train.average import measure_norms
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.divergence import sound
from kit.train.gradients import Backward, Learn, Loss, Recorded
from kit.train.norm import shared_norms
from kit.train.optim import rate_at
from kit.train.pace import KINDS, Pace
from kit.train.sam import uphill
from kit.train.state import Training, begin
from kit.world import World

Evaluate = Callable[[nn.Module], dict[str, float]]


def fit(
    network: nn.Module,
    loss: Loss,
    batches: Batches,
    evaluate: Evaluate,
    *,
    steps_per_epoch: int,
    train: Train,
    checkpoints: Checkpoints,
    budget: Budget,
    device: Device,
    log: Log,
    on_epoch: Callable[[list[dict[str, Any]], dict[str, float]], None],
    adapters: nn.Module | None = None,
    unmixed: Batches | None = None,
    prepare: Callable[[float], Hashable] = lambda progress: None,
) -> Training:
    """Train until the plan is done, going on from the newest checkpoint.

    Args:
        loss: (images, labels, share of the plan's epochs that is over) → (total, {name: value}).
        evaluate: "accuracy" on validation, 0…1, and other scores, of a network in evaluation mode; not called for a final fit.
        budget: of the processes that share each batch.
        adapters: train along but are not part of the network.
        train: its plan, with_compile_decided (kit/fuse.py): whether the loss was compiled is known.
        unmixed: the same batches without mixup, which batch norm is measured on; None: as they are.
        prepare: as `Recorded` takes it.
        on_epoch: is given the history, a dictionary an epoch, and where the last epoch's seconds went; after each epoch and at the
            beginning.
    Returns:
        The state at the plan's end; its `best` is the best epoch.
    Raises:
        Suspended: the budget ends, or a signal came, before the plan did; the state is saved.
        KitError: the checkpoint is of another network. Or the loss is no number any more, or exploded, a second time; the checkpoint
            before is kept.
        StorageError: the session's last checkpoint could not be written.
    """
    world = budget.world
    state = begin(network, adapters or nn.Module(), train, steps_per_epoch, device)
    learners, stage = nn.ModuleList([network, state.adapters]), checkpoints.stage
    if state.resume(checkpoints, device.device):
        log(f"{stage}: going on from step {state.step:,} of {state.steps:,} (epoch {state.epoch} of {train.epochs})")
    else:
        state.remember()
        state.save(checkpoints, budget)  # what it takes is known from here on, and a disk without room stops the run now and not tonight
    on_epoch(state.history, {})

    def look(model: nn.Module) -> dict[str, float]:
        return world.lead(lambda: evaluate(model))

    plain = Backward(loss, state.optimizer, state.scaler, device, train.clip_norm)
    learn: Learn = plain
    if train.graph is not False and device.device.type == "cuda" and world.alone:
        learn = Recorded(plain, prepare, lambda message: log(f"{stage}: {message}"), train.graph, updates=not train.sam_rho)

    step, evaluation, saving, waiting = (f"{stage} {kind}" for kind in KINDS)
    saved, saved_at, pace, seen, met = state.step, budget.clock(), Pace(budget, stage), 0, set[Hashable]()
    with progress(stage, state.steps, shown=world.first, done=state.step) as moved, shared_norms(learners, world):
        while state.step < state.steps and not out_of_patience(state):
            ends_epoch, terms = (state.step + 1) % steps_per_epoch == 0, prepare(state.progress)
            work = "compile" if train.compile and terms not in met else step  # a step after it does not take as long
            if not budget.fits(work, saving, "hand in", *([evaluation] if ends_epoch else [])):
                if state.step != saved:
                    sound(state, stage, device, log)
                    state.save(checkpoints, budget)
                budget.insist(f"step {state.step + 1:,} of {state.steps:,} of {stage}", work, saving, "hand in", evaluation)
            with budget.timed(work):
                seen += world.size * take_step(state, learn, batches, world)
            met.add(terms)
            moved(state.step)
            due = not world.all(budget.clock() - saved_at < train.save_seconds)
            if ends_epoch or due:
                with budget.timed(waiting):
                    fine = sound(state, stage, device, log)
                due = due or not fine
            if ends_epoch and fine:
                with budget.timed(evaluation):
                    finish_epoch(state, look)
                seconds, seen = pace.restart(seen), 0
                on_epoch(state.history, seconds)
                log(describe(stage, state, seconds))
            if due:
                try:
                    state.save(checkpoints, budget)
                    saved = state.step
                except StorageError as error:  # no reason to stop: the next one may find room, and the one before is there
                    log(f"no checkpoint this time: {error}")
                saved_at = budget.clock()
    state.good = state.fresh = None
    measure_norms(state, unmixed or batches, look, checkpoints, budget)
    log(f"{stage}: {chosen(state)}")
    return state


def take_step(state: Training, learn: Learn, batches: Batches, world: World) -> int:
    """One optimiser step; how many images this process looked at. Nothing here waits for the device, but for Muon under a scaler."""
    train = state.plan
    rate = state.rate * rate_at(state.step, state.steps, state.steps_per_epoch, train)
    if next(state.network.parameters()).is_cuda:  # rounded as a recorded step reads it, so that it gives the bits of one that isn't
        rate = float(np.float32(rate))
    for group in state.optimizer.param_groups:
        for name in {"lr", "adamw_lr"} & group.keys():  # the Muon of timm's first versions with it keeps a rate of its own for the rest
            group[name] = rate
    state.network.train()
    images, labels = batches(state.step)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]

    def gradients() -> dict[str, Tensor]:
        seed_global(derive(train.seed, "global", state.step), images.device)  # for dropout and whatever else draws so
        values = learn(images, labels, state.progress)
        # one message; the losses with it, so that no sum of theirs is rounded by when a checkpoint is due
        world.average([*(p.grad for p in trained if p.grad is not None), *values.values()])
        return values

    values = gradients()
    if train.sam_rho:
        with uphill(nn.ModuleList([state.network, state.adapters]), trained, train.sam_rho):
            gradients()
    learn.update()
    state.step += 1
    if state.ema:
        state.ema.update(state.network, step=state.step)
    state.first = state.first or values
    state.sums = {name: state.sums.get(name, 0) + value for name, value in values.items()}
    return len(images)


def finish_epoch(state: Training, evaluate: Evaluate) -> None:
    """Average the losses, evaluate the deployed weights, keep them if they are the best so far; in a final fit without a look."""
    train, epoch, losses = state.plan, state.epoch, state.means()
    deployed = state.deployed.eval()
    scores = {} if train.final_fit else evaluate(deployed)
    slower = {"rate": state.rate} if state.rate != 1 else {}
    state.history.append({"epoch": epoch, "step": state.step, **losses, **slower, **{name: round(v, 6) for name, v in scores.items()}})
    state.sums = {}
    if state.average and epoch > (train.swa_from or 0) * train.epochs:
        state.average.update_parameters(state.network)
    state.offer(deployed, scores, epoch)
    state.remember()


def out_of_patience(state: Training) -> bool:
    patience = state.plan.patience
    return patience is not None and bool(state.history) and state.epoch - state.best["epoch"] >= patience


def describe(stage: str, state: Training, seconds: dict[str, float]) -> str:
    line = state.history[-1]
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in ("epoch", "step", "accuracy", "macro_f1"))
    scored = f"val {line['accuracy']:.4f} (best {state.best['accuracy']:.4f})" if "accuracy" in line else "no validation"
    pace = f"{seconds['seconds']:.1f} s  {seconds['images_per_second']:.0f} img/s"
    return f"{stage} {line['epoch']}/{state.plan.epochs}  {losses}  {scored}  {pace}"


def chosen(state: Training) -> str:
    if state.best["accuracy"] is None:
        return f"the last weights, of epoch {state.best['epoch']}, are deployed; no validation accuracy (train.final_fit)"
    return f"best validation accuracy {state.best['accuracy']:.4f} at epoch {state.best['epoch']}"
