"""The least time that a pass can take on a device: Williams et al. 2009. Each layer takes as long as its arithmetic at the device's
best rate, or as long as its tensors take to be read and written once, whichever is longer.

Both rates are measured here, so the floor is of the device that is found, and not of a data sheet. It is the floor of a fused pass:
batch norm, activations and losses cost nothing beside the convolutions that they follow.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kit.bench.clock import clock
from kit.models.look import hooked

SIDE = {"cuda": 8192, "cpu": 1024}  # of the matrices that are multiplied
BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}  # that are copied, more than any cache holds
REPEATS = 5  # the best of them counts: a floor is not an average


@dataclass(frozen=True)
class Rates:
    """flops: multiplications and additions a second, of matrices of one type. bandwidth: bytes read and written a second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Layer:
    """What a layer does with a batch: multiplications and additions, and numbers that are read and written, in one pass.

    passes: forward, and in backward the gradient of the weights where they learn and that of the input where what comes before learns:
    each is as much again.
    """

    flops: float
    numbers: float
    passes: int


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    side, size = SIDE[device.type], BYTES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    best = lambda work: min(clock(work, 1, device) for _ in range(1 + REPEATS))  # noqa: E731
    return Rates(2 * side**3 / best(lambda: a @ b), 2 * size / best(lambda: target.copy_(source)))


def layers_of(network: nn.Module, images: Tensor) -> list[Layer]:
    """Convolutions and linear layers while the network looks at a batch."""
    found: list[Layer] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        flops = 2 * answer.numel() * module.weight[0].numel()
        passes = 1 + module.weight.requires_grad + given[0].requires_grad
        found.append(Layer(flops, given[0].numel() + answer.numel() + module.weight.numel(), passes))

    with hooked([m.register_forward_hook(note) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]):
        network(images)
    return found


def floor(layers: list[Layer], rates: Rates, dtype: torch.dtype) -> float:
    """Seconds."""
    return sum(each.passes * max(each.flops / rates.flops, each.numbers * dtype.itemsize / rates.bandwidth) for each in layers)
