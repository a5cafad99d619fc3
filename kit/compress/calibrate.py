"""Rounding that keeps what a layer answers to photos, where packing alone could only keep its weights (GPTQ, Frantar et al. 2023).

A layer's weights are rounded one input after another, and what each rounding changes in the answer is made up for by those inputs' weights
that are still to be rounded, as the inputs' covariance over some photos says (the paper's equations 2 and 3, which go back to the optimal
brain surgeon). Two things are added. What rounding does to an answer's mean goes into the bias, which is no code, so that only
the covariance is left to care for. And a channel tries several steps and keeps the one that errs least on the photos.

The error of the logits (rms, in their standard deviations, 4,432 validation photos) at 8 / 6 / 4 / 3 bits, of weights alone and of
photos: `record` after 40 epochs 0.010 / 0.036 / 0.178 / 0.383 and 0.006 / 0.023 / 0.104 / 0.217; `boss` after 600, whose first pointwise
layer looks at channels of very different size, 0.048 / 0.148 / 0.728 / 1.28 and 0.009 / 0.042 / 0.166 / 0.345. With places in even steps,
which follow a map's columns, `boss` had 0.011 / 0.058 / 0.199 / 0.413.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.compress.fold import fold
from kit.compress.lsq import STEPPED, Stepped, with_steps
from kit.config.schema import Pack
from kit.models.look import watched

PHOTOS = 512  # with PLACES each, forty samples for every weight of a channel of the students here
PLACES = 49  # of a map that are looked at
WIDEST = 1024  # inputs of a channel; above it, rounding stays with the weights: the work grows with the cube
DAMPING = 0.01  # of the inputs' mean variance, as published
STEPS = (1, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1)  # times the step that is best for the weights
BLOCK = 64  # inputs after which the others are brought up to date at once


@dataclass
class Inputs:
    """What a layer was given: sums over samples, [G, n] and [G, n, n] for G groups of n inputs."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, samples: Tensor) -> None:
        """samples: [G, S, n]."""
        samples = samples.cpu().double()  # a covariance is a small difference of large sums, and GPUs are slow at doubles
        self.count += samples.shape[1]
        self.total = self.total + samples.sum(1)
        self.squares = self.squares + samples.transpose(1, 2) @ samples

    def mean(self) -> np.ndarray:
        return np.asarray(self.total) / self.count

    def covariance(self) -> np.ndarray:
        mean = self.mean()
        return np.asarray(self.squares) / self.count - mean[:, :, None] * mean[:, None, :]


def round_by_photos(student: nn.Module, how: Pack, batches: Iterable[Tensor], device: torch.device) -> nn.Module:
    """A folded copy on the CPU whose weights are the multiples of steps that `pack` then writes as they are.

    Args:
        student: its weights not on a grid yet.
        how: method affine or symmetric.
        batches: images [N, 3, S, S] as the student is to see them.
        device: where they are looked at.
    """
    seen = look_at(fold(student).to(device), batches)
    model = with_steps(student, how)
    for name, layer in model.named_modules():
        if isinstance(layer, Stepped) and name in seen:
            settle(layer, seen[name])
    return model


@torch.no_grad()
def look_at(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Inputs]:
    """{layer: its inputs} of a folded network, of the layers whose rounding they can decide."""
    found: dict[str, Inputs] = {}
    draw = torch.Generator().manual_seed(0)

    def note(name: str, layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        found.setdefault(name, Inputs()).add(samples_of(layer, given[0], draw))

    def decides(layer: nn.Module) -> bool:
        return type(layer) in STEPPED and layer.weight[0].numel() <= WIDEST and not isinstance(getattr(layer, "padding", 0), str)

    with watched({name: layer for name, layer in model.named_modules() if decides(layer)}, note):
        for images in batches:
            model(images)
    return found


def samples_of(layer: nn.Module, x: Tensor, draw: torch.Generator) -> Tensor:
    """[G, S, n]: what single answers of a layer are made of, at places that are drawn."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    down, across = layer.padding
    x = F.pad(x, (across, across, down, down))
    tall, wide = (d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    rows, columns = ((side - part) // s + 1 for side, part, s in zip(x.shape[2:], (tall, wide), layer.stride, strict=True))
    places = torch.randperm(rows * columns, generator=draw)[:PLACES, None, None]
    top = places // columns * layer.stride[0] + torch.arange(0, tall, layer.dilation[0])[:, None]
    left = places % columns * layer.stride[1] + torch.arange(0, wide, layer.dilation[1])
    taken = x[:, :, top.to(x.device), left.to(x.device)]  # [N, C, places, k, k], without unfolding whole maps
    return taken.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2, 4, 5).flatten(3).flatten(1, 2)


@torch.no_grad()
def settle(layer: Stepped, seen: Inputs) -> None:
    """Put a layer's weights on the grid, its steps and its bias as they go best with it."""
    covariance = seen.covariance() if layer.bias is not None else np.asarray(seen.squares) / seen.count
    groups, n = covariance.shape[:2]
    rows = layer.weight.double().numpy().reshape(groups, -1, n)
    steps, lows, span = grids(layer)  # [K, C]
    tried = np.concatenate([rows] * len(steps), axis=1)
    per_group = [table.reshape(len(steps), groups, -1).transpose(1, 0, 2).reshape(groups, -1) for table in (steps, lows)]
    step, low = per_group
    rounded = spread(tried, covariance, step, low, low + span) * step[:, :, None]
    off = (rounded - tried).reshape(groups, len(steps), -1, n)
    error = np.einsum("gkrn,gkrn->gkr", off @ covariance[:, None], off)
    best = error.argmin(1)[:, None]  # [G, 1, R]; the first of equals
    chosen = np.take_along_axis(rounded.reshape(off.shape), best[..., None], 1)[:, 0]
    if layer.bias is not None:
        layer.bias += torch.from_numpy(((rows - chosen) @ seen.mean()[:, :, None]).ravel())
    kept = (np.take_along_axis(table.reshape(groups, len(steps), -1), best, 1).ravel() for table in per_group)
    layer.take(chosen.reshape(layer.weight.shape), *kept)


def grids(layer: Stepped) -> tuple[np.ndarray, np.ndarray, int]:
    """(steps, lowest multiples [K, C], how many multiples above them) about the middle of the layer's own grid."""
    own, low = layer.scale().flatten().double().numpy(), layer.low.flatten().double().numpy()
    span, middle = int((layer.high - layer.low).max()), 2 ** (layer.pack.bits - 1)
    steps = np.stack([own * factor for factor in STEPS]).astype(np.float16 if layer.half else np.float32).astype(np.float64)
    steps = np.where(steps == 0, own, steps)  # below float16's least
    lows = np.rint((low + span / 2) * own / steps - span / 2).clip(-128 - middle, 127 - middle)  # the shift has one byte
    return steps, lows, span


def spread(rows: np.ndarray, covariance: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whole multiples [G, R, n] of steps [G, R], between low and high [G, R], for rows [G, R, n] whose inputs have covariance [G, n, n].

    The most varied inputs come first: their errors are the dearest, and then the most weights are left to make up for them.
    """
    size = covariance.diagonal(axis1=1, axis2=2)
    order = np.argsort(-size, axis=1, kind="stable")
    damping = DAMPING * size.mean(1) + 1e-9  # inputs that are always the same leave nothing to invert
    damped = covariance + damping[:, None, None] * np.eye(size.shape[1])
    damped = np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), order[:, None, :], 2)
    # U of inverse = UᵀU: the Cholesky factor, taken from the last input backwards, inverted
    pull = np.linalg.inv(np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1])
    left = np.take_along_axis(rows, order[:, None, :], 2)
    whole, n = np.empty_like(left), left.shape[2]
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        off = np.empty((*left.shape[:2], end - start))
        for i in range(start, end):
            whole[:, :, i] = np.rint(left[:, :, i] / step).clip(low, high)
            off[:, :, i - start] = (left[:, :, i] - whole[:, :, i] * step) / pull[:, i, i, None]
            left[:, :, i + 1 : end] -= off[:, :, i - start, None] * pull[:, None, i, i + 1 : end]
        left[:, :, end:] -= off @ pull[:, start:end, end:]
    return np.take_along_axis(whole, np.argsort(order, axis=1)[:, None, :], 2)
