"""All that changes while a network trains, saved and loaded together."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kit.config.schema import Train
from kit.device import Device
from kit.errors import KitError, in_brief
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.optim import make_optimizer


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

    def resume(self, checkpoints: Checkpoints, device: torch.device) -> bool:
        """Bring the state to the newest checkpoint; whether there is one.

        Raises:
            KitError: it does not fit.
        """
        if not (saved := checkpoints.load()):
            return False
        try:
            self.load(saved, device)
        except (ValueError, RuntimeError) as error:  # torch's, of an optimiser's groups and of a network's tensors
            if isinstance(error, RuntimeError) and "loading state_dict" not in str(error):
                raise  # such as too little memory
            raise KitError(
                f"{checkpoints.stage}: what was saved does not fit what is trained here now ({in_brief(error)}): another "
                "version of the kit began this stage. End the run with that one, or begin anew in another --out."
            ) from None
        return True

    def save(self, checkpoints: Checkpoints, budget: Budget) -> None:
        """Waits for the device: a checkpoint is read back from it."""
        with budget.timed(f"{checkpoints.stage} save"):
            checkpoints.save(self.step, self.state())

    def means(self) -> dict[str, float]:
        """Of each loss term over the epoch's steps so far. Waits for the device."""
        steps = self.step % self.steps_per_epoch or self.steps_per_epoch
        return {name: round(float(value) / steps, 6) for name, value in self.sums.items()}

    def offer(self, model: nn.Module, scores: dict[str, float], epoch: int) -> None:
        """Keep a network's weights, those of an epoch's end, as the best where its accuracy is; without scores, in a final fit, the newest
        are."""
        accuracy = scores.get("accuracy")
        if accuracy is None or accuracy > self.best["accuracy"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best = {"accuracy": accuracy, "epoch": epoch, "weights": weights}


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
