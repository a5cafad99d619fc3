"""Optimisers by name, and the learning rate as a function of the step alone."""

import math
from collections.abc import Iterable

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from kit.config.schema import Train


def make_optimizer(modules: Iterable[nn.Module], train: Train) -> torch.optim.Optimizer:
    """timm's factory over all that trains. Unless the recipe decays everything, biases and BN are left out of weight decay."""
    whole = nn.ModuleList(modules)
    return create_optimizer_v2(
        whole,
        opt=train.optimizer,
        lr=train.lr,
        weight_decay=train.weight_decay,
        momentum=0.9,
        filter_bias_and_bn=not train.decay_everything,
    )


def rate_at(step: int, steps: int, steps_per_epoch: int, train: Train) -> float:
    """The learning rate of a step: linear warm-up, then constant, a cosine to zero, or drops by ten."""
    warmup = round(train.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    p = (step - warmup) / max(1, steps - warmup)
    match train.schedule:
        case "cosine":
            return train.lr * 0.5 * (1 + math.cos(math.pi * p))
        case "step":
            return train.lr * 0.1 ** sum(step / steps >= drop for drop in train.drops)
    return train.lr
