"""The one training loop. It knows neither distillation nor compression: loss and evaluator come in as functions.

All that changes while a network trains is in `Training`, saved together. The plan (epochs, schedule) is fixed; the budget only says
where today's slice of it ends, so a run in ten sessions takes the same steps as a run in one. What a clock decides (when to save, when
to stop) never reaches the arithmetic.
"""

import copy
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kit.config.schema import Train
from kit.config.stages import kind_of
from kit.console import Log, progress
from kit.data.loader import Batches
from kit.device import Device
from kit.errors import KitError, in_brief
from kit.files import StorageError
from kit.rng import derive
from kit.train.average import batches_to_measure, remeasure
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.gradients import Backward, Learn, Loss, Recorded
from kit.train.norm import shared_norms
from kit.train.optim import make_optimizer, rate_at
from kit.train.pace import KINDS, Pace
from kit.train.sam import uphill
from kit.world import World

Evaluate = Callable[[nn.Module], dict[str, float]]

EXPLODED = 10  # times what a loss was at the first step
GUESSING = math.log(10)  # and no less than this: a trained network's first loss is next to nothing, and ten times that is no matter
SMALLER = 0.3  # of the learning rate after a run has diverged
RATES = {"finetune": "prune.finetune_lr", "lowrank": "lowrank.train_lr", "qat": "quantize.train_lr"}  # of stages that have one of their own


@dataclass
class Training:
    """A plan, and everything that changes while a network is trained by it.

    best: accuracy, epoch and weights of the best epoch by validation. rate: what the learning rate is multiplied by, below 1 after the
    run has diverged once. good: the state to go back to then, None after that. fresh: the state at the last epoch's end, which is good
    when the next epoch has been sound: that an update was too much shows only in the losses after it.
    """

    plan: Train
    steps_per_epoch: int
    network: nn.Module
    adapters: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    scaler: torch.amp.GradScaler
    average: AveragedModel | None = None  # of the weights at epochs' ends
    step: int = 0
    best: dict[str, Any] = field(default_factory=lambda: {"accuracy": -1.0, "epoch": 0, "weights": None})
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each loss term since the epoch began
    first: dict[str, Tensor] = field(default_factory=dict)  # each loss term at the first step
    rate: float = 1.0
    good: dict[str, Any] | None = None
    fresh: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        """Of the whole plan."""
        return self.plan.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self.step // self.steps_per_epoch

    @property
    def progress(self) -> float:
        """The share of the plan's epochs that is over: what ramps look at."""
        return self.epoch / self.plan.epochs

    @property
    def deployed(self) -> nn.Module:
        """The weights that count: the average's where there is one."""
        return self.ema.module if self.ema else self.network

    def modules(self) -> dict[str, Any]:
        parts = {"network": self.network, "adapters": self.adapters, "optimizer": self.optimizer, "scaler": self.scaler}
        parts |= {"ema": self.ema.module} if self.ema else {}
        return parts | ({"average": self.average} if self.average else {})

    def state(self) -> dict[str, Any]:
        plain = {"step": self.step, "best": self.best, "history": self.history, "rate": self.rate}
        plain |= {"sums": self.sums, "first": self.first, "good": self.good, "fresh": self.fresh}
        return plain | {name: part.state_dict() for name, part in self.modules().items()}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        for name, part in self.modules().items():
            if state[name] or name != "scaler":  # another device may not have scaled
                part.load_state_dict(state[name])
        self.step, self.best, self.history = state["step"], state["best"], state["history"]
        self.rate, self.good, self.fresh = state["rate"], state["good"], state["fresh"]
        self.sums, self.first = ({name: value.to(device) for name, value in state[key].items()} for key in ("sums", "first"))

    def remember(self) -> None:
        """The epoch's end, to go back to; not after a run has diverged, for it may do so once."""
        if self.rate == 1:
            now = copy.deepcopy(self.state() | {"good": None, "fresh": None})
            self.good, self.fresh = (self.fresh or self.good, now) if self.good else (now, None)


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
    if goes_on(state, checkpoints, device):
        log(f"{stage}: going on from step {state.step:,} of {state.steps:,} (epoch {state.epoch} of {train.epochs})")
    else:
        state.remember()
        save(state, checkpoints, budget)  # what it takes is known from here on, and a disk without room stops the run now and not tonight
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
                    save(state, checkpoints, budget)
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
                with suppress_full_disk(log):
                    save(state, checkpoints, budget)
                    saved = state.step
                saved_at = budget.clock()
    state.good = state.fresh = None
    measure_norms(state, unmixed or batches, look, checkpoints, budget)
    log(f"{stage}: {chosen(state)}")
    return state


def measure_norms(state: Training, batches: Batches, evaluate: Evaluate, checkpoints: Checkpoints, budget: Budget) -> None:
    """The plan's end: batch norms measured anew in what may be deployed, where weights were averaged or the plan asks for it.

    Raises:
        Suspended: there is no time for it; the state is saved.
    """
    train, stage = state.plan, checkpoints.stage
    if not (steps := min(state.steps_per_epoch, batches_to_measure(train, state.average))):
        return
    owed = [f"{stage} evaluate", *[f"{stage} step"] * steps, "hand in"]
    if not budget.fits(*owed):
        save(state, checkpoints, budget)
    budget.insist(f"batch norm of {stage} was measured anew", *owed)
    torch.manual_seed(derive(train.seed, "measure"))
    remeasure(last := candidate(state), batches, steps, budget.world)
    offer(state, last, {} if train.final_fit else evaluate(last))


def goes_on(state: Training, checkpoints: Checkpoints, device: Device) -> bool:
    """Bring the state to the newest checkpoint; whether there is one.

    Raises:
        KitError: it does not fit.
    """
    if not (saved := checkpoints.load()):
        return False
    try:
        state.load(saved, device.device)
    except (ValueError, RuntimeError) as error:  # torch's, of an optimiser's groups and of a network's tensors
        if isinstance(error, RuntimeError) and "loading state_dict" not in str(error):
            raise  # such as too little memory
        raise KitError(
            f"{checkpoints.stage}: what was saved does not fit what is trained here now ({in_brief(error)}): another "
            "version of the kit began this stage. End the run with that one, or begin anew in another --out."
        ) from None
    return True


@contextmanager
def suppress_full_disk(log: Log) -> Iterator[None]:
    """A checkpoint in between that can't be written is no reason to stop: the next one may find room, and the older one is there."""
    try:
        yield
    except StorageError as error:
        log(f"no checkpoint this time: {error}")


def begin(network: nn.Module, adapters: nn.Module, train: Train, steps_per_epoch: int, device: Device) -> Training:
    network.to(device.device)
    return Training(
        plan=train,
        steps_per_epoch=steps_per_epoch,
        network=network,
        adapters=adapters,
        optimizer=make_optimizer([network, adapters], train),
        ema=ModelEmaV3(network, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None,
        scaler=torch.amp.GradScaler(device.device.type, enabled=device.scaled),
        average=AveragedModel(network) if train.swa_from is not None else None,
    )


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
        torch.manual_seed(derive(train.seed, "global", state.step))  # for dropout and whatever else draws from the global generator
        values = learn(images, labels, state.progress)
        # one message; the losses with it, so that no sum of theirs is rounded by when a checkpoint is due
        world.average([*(p.grad for p in trained if p.grad is not None), *values.values()])
        return values

    values = gradients()
    if train.sam_rho:
        with uphill(state.network, trained, train.sam_rho):
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
    train, epoch, losses = state.plan, state.epoch, means(state)
    deployed = state.deployed.eval()
    scores = {} if train.final_fit else evaluate(deployed)
    slower = {"rate": state.rate} if state.rate != 1 else {}
    state.history.append({"epoch": epoch, "step": state.step, **losses, **slower, **{name: round(v, 6) for name, v in scores.items()}})
    state.sums = {}
    if state.average and epoch > (train.swa_from or 0) * train.epochs:
        state.average.update_parameters(state.network)
    offer(state, deployed, scores)
    state.remember()


def offer(state: Training, model: nn.Module, scores: dict[str, float]) -> None:
    """Keep a network's weights as the best where its accuracy is; without scores, in a final fit, the newest are."""
    accuracy = scores.get("accuracy")
    if accuracy is None or accuracy > state.best["accuracy"]:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        state.best = {"accuracy": accuracy, "epoch": state.epoch, "weights": weights}


def candidate(state: Training) -> nn.Module:
    """What may be deployed at the plan's end once its batch norms are measured anew: the epochs' average, else the best epoch's weights."""
    if state.average and state.average.n_averaged:
        return state.average.module
    best = copy.deepcopy(state.network)
    best.load_state_dict(state.best["weights"])
    return best


def means(state: Training) -> dict[str, float]:
    """Of each loss term over the epoch's steps so far. Waits for the device."""
    steps = state.step % state.steps_per_epoch or state.steps_per_epoch
    return {name: round(float(value) / steps, 6) for name, value in state.sums.items()}


def save(state: Training, checkpoints: Checkpoints, budget: Budget) -> None:
    """Waits for the device: a checkpoint is read back from it."""
    with budget.timed(f"{checkpoints.stage} save"):
        checkpoints.save(state.step, state.state())


def sound(state: Training, stage: str, device: Device, log: Log) -> bool:
    """Whether the run is where it should be. If not, it is back at the end of the epoch before the last one, with a smaller step, once.

    Where it goes back to depends on the step alone, whenever it is asked: a run that diverges takes the same steps after a kill.

    Raises:
        KitError: the second time.
    """
    trouble = find_trouble(state)
    if trouble is None:
        return True
    if state.good is None:
        plan = "teacher.train" if stage == "teacher" else "train"
        rate = RATES.get(kind_of(stage), f"{plan}.lr")
        raise KitError(
            f"{stage}: {trouble} at step {state.step:,}, again after the learning rate was cut to {state.rate:g} of the plan's. The "
            f"checkpoint before is kept. Begin again in another --out with a smaller --set {rate}=… or with --set {plan}.clip_norm=1."
        )
    at = state.step
    state.load(state.good, device.device)
    state.rate, state.good = SMALLER, None
    log(
        f"{stage}: {trouble} at step {at:,}. Back to step {state.step:,}, and on from there with {SMALLER:g} of the learning rate; "
        "a second time the run stops"
    )
    return False


def find_trouble(state: Training) -> str | None:
    """A loss that is no number; or, at an epoch's end, one that is ten times what it was at the start. Waits for the device."""
    losses = means(state)
    for name, value in losses.items():
        if not math.isfinite(value):
            return f"the loss {name!r} is no number any more"
    if state.step % state.steps_per_epoch:
        return None
    for name, value in losses.items():
        first, weighted = float(state.first[name]), name == "loss" and len(losses) > 1  # the terms' weights may grow with the plan
        if not weighted and first > 0 and value > max(GUESSING, EXPLODED * first):
            return f"the loss {name!r} has exploded from {first:.4g} at the first step to {value:.4g}"
    return None


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
