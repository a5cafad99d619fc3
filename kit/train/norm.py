"""Batch norm over the whole batch of several processes, on any device: torch's SyncBatchNorm refuses the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from kit.world import World


class SharedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose mean and variance in training are of all processes' images; the gradient flows through both."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size = torch.distributed.get_world_size()
        count = size * x.numel() / x.shape[1]
        mean = all_reduce(x.float().mean((0, 2, 3))) / size
        centred = x.float() - mean[:, None, None]
        variance = all_reduce(centred.square().mean((0, 2, 3))) / size  # from the mean, not E[x²] - mean²: that cancels
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


@contextmanager
def shared_norms(network: nn.Module, world: World) -> Iterator[None]:
    """While a network trains in several processes its batch norms are shared; before and after they are torch's own."""
    norms = [] if world.alone else [m for m in network.modules() if type(m) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SharedBatchNorm
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
