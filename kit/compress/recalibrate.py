"""Batch norm's statistics measured anew: a network that was cut or averaged has other activations than its statistics were taken of."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCHES = 20  # that suffice: at 128 photos each the statistics are within a percent of an epoch's


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Callable[[int], tuple[Tensor, Tensor]], steps: int) -> None:
    """Replace the running mean and variance of every batch norm that trains by the plain average over `steps` training batches.

    Args:
        batches: step → (images [N, 3, H, W] as in training, labels).
    """
    every = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = [norm for norm in every if norm.weight.requires_grad]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.train()
    for norm in set(every) - set(norms):
        norm.eval()
    for step in range(steps):
        model(batches(step)[0])
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
