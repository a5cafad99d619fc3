"""Batch norm over the whole batch of several processes, on any device: torch's SyncBatchNorm refuses the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from kit.world import World


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """By the mean and variance of all processes' images, in training; the gradient flows through both."""
    size = torch.distributed.get_world_size()
    count = size * x.numel() / x.shape[1]
    mean = all_reduce(x.float().mean((0, 2, 3))) / size
    centred = x.float() - mean[:, None, None]
    variance = all_reduce(centred.square().mean((0, 2, 3))) / size  # from the mean, not E[x²] - mean²: that cancels
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (centred * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)


class SharedBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return normalised(self, x) if self.training else super().forward(x)


class SharedBatchNormAct(BatchNormAct2d):
    """timm's, whose activation is a part of the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(normalised(self, x))) if self.training else super().forward(x)


SHARED = {nn.BatchNorm2d: SharedBatchNorm, BatchNormAct2d: SharedBatchNormAct}


@contextmanager
def shared_norms(learners: nn.Module, world: World) -> Iterator[None]:
    """While networks train in several processes their batch norms are shared; before and after they are what they were."""
    norms = {} if world.alone else {m: type(m) for m in learners.modules() if type(m) in SHARED}
    for norm, own in norms.items():
        norm.__class__ = SHARED[own]
    try:
        yield
    finally:
        for norm, own in norms.items():
            norm.__class__ = own
