"""Optimisers by name, and the learning rate as a function of the step alone.

timm's Muon orthogonalises the updates of matrices and convolutions, and takes AdamW for depthwise ones, norms, biases and what is less than
four high or wide. The others are torch's fused ones: one kernel for all tensors, on a CPU too (0.18 ms a step of a student's 41 tensors
instead of 1.09)."""

import math
from collections.abc import Iterable

import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from kit.config.schema import Train
from kit.errors import KitError

FUSED = ("adam", "adamw", "sgd")
RISING = 0.3  # of a one-cycle plan


def make_optimizer(modules: Iterable[nn.Module], train: Train) -> torch.optim.Optimizer:
    """timm's factory over all that trains; its `sgd` is Nesterov's. Unless the recipe decays everything, biases and BN are left out of
    weight decay.

    Raises:
        KitError: timm is older than the optimizer.
    """
    if train.optimizer not in list_optimizers():  # Muon came in 2025
        raise KitError(f"timm {timm.__version__} has no {train.optimizer}: pip install --upgrade timm, or --set train.optimizer=adamw.")
    whole = nn.ModuleList(modules)
    optimizer = create_optimizer_v2(
        whole,
        opt=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=0.9,
        filter_bias_and_bn=not train.decay_everything,
        **({"fused": True} if train.optimizer in FUSED else {}),
    )
    if train.optimizer == "sgd":  # torch's fused one leaves these unwritten where a scaler passes the first step over, and refuses any
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):  # that come later, with a term's ramp
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def rate_at(step: int, steps: int, steps_per_epoch: int, train: Train) -> float:
    """The learning rate of a step: linear warm-up, for half of the plan at most, then constant, a cosine or a line to zero, or drops by
    ten.

    wsd stays constant and falls at the end, as 1 - √ (Hägele et al. 2024, section 3). one_cycle rises from lr / 25 for three tenths of
    the plan and falls to lr / 250,000, both along a cosine (Smith and Topin 2018, with torch's OneCycleLR's defaults, its cycle of
    momentum left out).
    """
    warmup = min(round(train.warmup_epochs * steps_per_epoch), steps // 2)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    p = (step - warmup) / max(1, steps - warmup)
    match train.schedule:
        case "cosine":
            return along(train.lr, 0, p)
        case "linear":
            return train.lr * (1 - p)
        case "wsd":
            fallen = (step / steps - (1 - train.cooldown)) / train.cooldown if train.cooldown else 0
            return train.lr * (1 - math.sqrt(max(0, fallen)))
        case "one_cycle":
            if p < RISING:
                return along(train.lr / 25, train.lr, p / RISING)
            return along(train.lr, train.lr / 250_000, (p - RISING) / (1 - RISING))
        case "step":
            return train.lr * 0.1 ** sum(step / steps >= drop for drop in train.drops)
    return train.lr


def along(start: float, end: float, share: float) -> float:
    """Half a cosine from start (share 0) to end (share 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
