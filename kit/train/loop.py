"""The one training loop. It knows neither distillation nor compression: loss and evaluator come in as functions.

All that changes while a network trains is in `Training`, saved together. The plan (epochs, schedule) is fixed; the budget only says
where today's slice of it ends, so a run in ten sessions takes the same steps as a run in one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from kit.config.schema import Train
from kit.console import Log, progress
from kit.device import Device
from kit.errors import KitError
from kit.rng import derive
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.optim import make_optimizer, rate_at

Batches = Callable[[int], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor, float], tuple[Tensor, dict[str, Tensor]]]


@dataclass
class Training:
    """Everything that changes while a network trains. best: accuracy, epoch and weights of the best epoch by validation."""

    network: nn.Module
    adapters: nn.Module
    optimizer: torch.optim.Optimizer
    ema: ModelEmaV3 | None
    scaler: torch.amp.GradScaler
    step: int = 0
    best: dict[str, Any] = field(default_factory=lambda: {"accuracy": -1.0, "epoch": 0, "weights": None})
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, Tensor] = field(default_factory=dict)  # of each loss term since the epoch began

    @property
    def deployed(self) -> nn.Module:
        """The weights that count: the average's where there is one."""
        return self.ema.module if self.ema else self.network

    def modules(self) -> dict[str, Any]:
        parts = {"network": self.network, "adapters": self.adapters, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"ema": self.ema.module} if self.ema else {})

    def state(self) -> dict[str, Any]:
        plain = {"step": self.step, "best": self.best, "history": self.history, "sums": self.sums}
        return plain | {name: part.state_dict() for name, part in self.modules().items()}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        for name, part in self.modules().items():
            part.load_state_dict(state[name])
        self.step, self.best, self.history = state["step"], state["best"], state["history"]
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}


def fit(
    network: nn.Module,
    loss: Loss,
    batches: Batches,
    evaluate: Callable[[nn.Module], float],
    *,
    steps_per_epoch: int,
    train: Train,
    checkpoints: Checkpoints,
    budget: Budget,
    device: Device,
    log: Log,
    on_epoch: Callable[[list[dict[str, Any]]], None],
    adapters: nn.Module | None = None,
) -> dict[str, Any]:
    """Train until the plan is done, going on from the newest checkpoint.

    Args:
        loss: (images, labels, share of the plan's epochs that is over) → (total, {name: value}).
        evaluate: accuracy on validation, 0…1, of a network in evaluation mode.
        adapters: train along but are not part of the network.
        on_epoch: is given the history, a dictionary an epoch, after each epoch and after a resume.
    Returns:
        The best epoch: {"accuracy", "epoch", "weights"}.
    Raises:
        Suspended: the budget ends, or a signal came, before the plan did; the state is saved.
        KitError: the loss is no number any more; the checkpoint before is kept.
    """
    state = begin(network, adapters or nn.Module(), train, device)
    stage, steps = checkpoints.stage, train.epochs * steps_per_epoch
    if saved := checkpoints.load():
        state.load(saved, device.device)
        log(f"{stage}: going on from step {state.step:,} of {steps:,} (epoch {state.step // steps_per_epoch} of {train.epochs})")
    on_epoch(state.history)
    begun_at, saved_at, clock = state.step, time.monotonic(), Clock()
    with progress(stage, steps) as moved:
        while state.step < steps and not out_of_patience(state, train, steps_per_epoch):
            ends_epoch = (state.step + 1) % steps_per_epoch == 0
            if not budget.fits("step", "save", "hand in", *(["evaluate"] if ends_epoch else [])):
                if state.step > begun_at:
                    save(state, checkpoints, budget)
                budget.insist(f"step {state.step + 1:,} of {steps:,} of {stage}", "step", "save", "hand in", "evaluate")
            with budget.timed("step"):
                take_step(state, loss, batches, steps, steps_per_epoch, train, device)
            clock.count(train.batch_size)
            moved(state.step)
            if ends_epoch:
                with budget.timed("evaluate"):
                    finish_epoch(state, evaluate, steps_per_epoch)
                on_epoch(state.history)
                log(describe(stage, state, train, clock.restart()))
            if time.monotonic() - saved_at >= train.save_seconds:
                save(state, checkpoints, budget)
                saved_at = time.monotonic()
    log(f"{stage}: best validation accuracy {state.best['accuracy']:.4f} at epoch {state.best['epoch']}")
    return state.best


def begin(network: nn.Module, adapters: nn.Module, train: Train, device: Device) -> Training:
    network.to(device.device)
    return Training(
        network=network,
        adapters=adapters,
        optimizer=make_optimizer([network, adapters], train),
        ema=ModelEmaV3(network, decay=train.ema_decay, use_warmup=True) if train.ema_decay else None,
        scaler=torch.amp.GradScaler(device.device.type, enabled=device.scaled),
    )


def take_step(state: Training, loss: Loss, batches: Batches, steps: int, steps_per_epoch: int, train: Train, device: Device) -> None:
    """One optimiser step. Nothing here waits for the device."""
    torch.manual_seed(derive(train.seed, "global", state.step))  # for dropout and whatever else draws from the global generator
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(state.step, steps, steps_per_epoch, train)
    state.network.train()
    images, labels = batches(state.step)
    with torch.autocast(device.device.type, device.autocast, enabled=device.autocast is not None):
        total, values = loss(images, labels, state.step // steps_per_epoch / train.epochs)
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(total).backward()
    if train.clip_norm:
        state.scaler.unscale_(state.optimizer)
        trained = [p for group in state.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, train.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.step += 1
    if state.ema:
        state.ema.update(state.network, step=state.step)
    for name, value in ({"loss": total} | values).items():
        state.sums[name] = state.sums.get(name, 0) + value.detach()


def finish_epoch(state: Training, evaluate: Callable[[nn.Module], float], steps_per_epoch: int) -> None:
    """Average the losses, evaluate the deployed weights, keep them if they are the best so far."""
    refuse_nan(state)
    epoch = state.step // steps_per_epoch
    means = {name: round(float(value) / steps_per_epoch, 6) for name, value in state.sums.items()}
    accuracy = evaluate(state.deployed.eval())
    state.history.append({"epoch": epoch, "step": state.step, **means, "accuracy": round(accuracy, 6)})
    state.sums = {}
    if accuracy > state.best["accuracy"]:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in state.deployed.state_dict().items()}
        state.best = {"accuracy": accuracy, "epoch": epoch, "weights": weights}


def save(state: Training, checkpoints: Checkpoints, budget: Budget) -> None:
    """Waits for the device: a checkpoint is read back from it."""
    refuse_nan(state)
    with budget.timed("save"):
        checkpoints.save(state.step, state.state())


def refuse_nan(state: Training) -> None:
    if not math.isfinite(sum(float(value) for value in state.sums.values())):
        raise KitError(
            f"The loss is no number any more at step {state.step:,}. Nothing of that was saved: run again with a smaller "
            "--set train.lr=… into another --out, or with --set train.clip_norm=1."
        )


def out_of_patience(state: Training, train: Train, steps_per_epoch: int) -> bool:
    epoch = state.step // steps_per_epoch
    return train.patience is not None and bool(state.history) and epoch - state.best["epoch"] >= train.patience


class Clock:
    """Seconds and images since the last epoch's line."""

    def __init__(self) -> None:
        self.since, self.images = time.perf_counter(), 0

    def count(self, images: int) -> None:
        self.images += images

    def restart(self) -> tuple[float, float]:
        """(seconds, images per second) so far; then from zero."""
        seconds, images = time.perf_counter() - self.since, self.images
        self.since, self.images = time.perf_counter(), 0
        return seconds, images / seconds


def describe(stage: str, state: Training, train: Train, pace: tuple[float, float]) -> str:
    line = state.history[-1]
    losses = "  ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in ("epoch", "step", "accuracy"))
    best = f"best {state.best['accuracy']:.4f}"
    return f"{stage} {line['epoch']}/{train.epochs}  {losses}  val {line['accuracy']:.4f} ({best})  {pace[0]:.1f} s  {pace[1]:.0f} img/s"
