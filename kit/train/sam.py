"""Sharpness-aware minimisation: the gradient that is followed is taken a little uphill (Foret et al. 2021, equation 2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def uphill(learners: nn.Module, trained: Sequence[nn.Parameter], rho: float) -> Iterator[None]:
    """Inside, the weights are moved by rho along their gradient, over all of them together; after it they are what they were to the bit,
    and so are batch norm's statistics. The gradients of inside stay.

    A gradient scaler's factor cancels in the direction. Where its gradients are infinite so is the step, and the scaler passes it over.
    """
    moved = [p for p in trained if p.grad is not None]
    kept = [(tensor, tensor.detach().clone()) for tensor in (*moved, *learners.buffers())]
    with torch.no_grad():
        norm = torch.stack([p.grad.norm() for p in moved]).norm() + 1e-12
        for p in moved:
            p += rho * p.grad / norm
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
