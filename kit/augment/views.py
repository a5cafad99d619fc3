"""Views of whole batches: what the networks see of cached photos, in training and in evaluation."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kit.augment.warp import centre_crop, line_to_input, random_resized_crop, warp
from kit.config.schema import Augment, Data
from kit.device import sent

ROUNDING = 1e-3  # of a pixel from 0 to 1


class Drawn(NamedTuple):
    """A share's random numbers, float32 on the CPU: windows [M, 4], flips [M, 2] of ±1, angles [M] each, and factors [M, 1, 1, 1] of
    brightness, contrast and saturation, None where one is not changed."""

    crop: Tensor
    flips: Tensor
    turns: list[Tensor]
    brightness: Tensor | None
    contrast: Tensor | None
    saturation: Tensor | None


def draw_views(sizes: Tensor, generator: torch.Generator, data: Data, augment: Augment, share: slice = slice(None)) -> Drawn:
    """What `training_views` does with each photo; all that is left to the host when a GPU warps. Arguments as there."""
    n = len(sizes)
    if augment.crop_scale is None:
        crop = centre_crop(sizes, data.resize_side, data.image_size)
    else:
        crop = random_resized_crop(sizes, augment.crop_scale, augment.crop_ratio, generator)
    flips = 1 - 2 * (torch.rand(n, 2, generator=generator) < torch.tensor([augment.horizontal_flip, augment.vertical_flip])).float()
    limits = [math.radians(degrees) for degrees in (augment.rotate, augment.affine_rotate)]
    turns = [(limit * (2 * torch.rand(n, generator=generator) - 1))[share] for limit in limits if limit]

    def factor(limit: float) -> Tensor:
        return (1 + limit * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1))[share]

    brightness = factor(augment.brightness)  # drawn in any case, as it was when it came first: a seed's views stay as they are
    others = [factor(limit) if limit else None for limit in (augment.contrast, augment.saturation)]
    return Drawn(crop[share], flips[share], turns, brightness if augment.brightness else None, *others)


def show_views(
    pixels: Tensor,
    stored: Tensor,
    crop: Tensor,
    flips: Tensor,
    turns: tuple[Tensor, ...],
    factors: tuple[Tensor | None, ...],
    side: int,
    line: tuple[Tensor, Tensor],
) -> Tensor:
    """What was drawn, done, all of it on the pixels' device.

    factors: of brightness, contrast and saturation. line: as `line_to_input` gives it. The others are `warp`'s.
    """
    brightness, contrast, saturation = factors

    def finish(views: Tensor, part: slice) -> Tensor:
        if brightness is not None:
            views = (views * brightness[part]).clamp_(max=255)
        for kept, grey_of in ((contrast, mean_grey), (saturation, grey)):
            if kept is not None:
                views = torch.lerp(grey_of(views), views, kept[part]).clamp_(0, 255)
        return torch.addcmul(line[0], views, line[1])

    return warp(pixels, stored, crop, flips, turns, side, finish)


def way_to_show(device: torch.device, factors: tuple[Tensor | None, ...]) -> Callable[..., Tensor]:
    """`show_views`, or on a GPU the kernel in its place, where nothing needs a view's mean or its grey."""
    _, contrast, saturation = factors
    plain = contrast is None and saturation is None
    return (kernel(device) if plain and device.type == "cuda" else None) or show_views


@functools.cache
def kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """What makes views by one kernel, where it runs and makes those of torch's passes: tried once on noise, for there may be no Triton, no
    C compiler, which it needs, or a card that neither was ever tried on."""
    draw = torch.Generator().manual_seed(0)
    noise = [torch.rand(2, *shape, generator=draw).to(device) for shape in ((8, 8, 3), (4,), (), (1, 1, 1))]
    whole, turns, factors = torch.full((2, 2), 8.0, device=device), (noise[2],), (noise[3], None, None)
    line = line_to_input((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), device)
    given = ((noise[0] * 255).byte(), whole, noise[1] / 2, torch.ones(2, 2, device=device), turns, factors, 24, line)
    try:
        from kit.augment.kernel import show

        views = show(*given)
    except Exception:  # whatever a compiler, a linker or a driver says
        return None
    differs = (views - show_views(*given)).abs() > ROUNDING
    return show if differs.float().mean() < 0.01 else None  # on a corner's edge a pixel may fall to either side


def training_views(
    pixels: Tensor,
    sizes: Tensor,
    generator: torch.Generator,
    data: Data,
    augment: Augment,
    share: slice = slice(None),
) -> Tensor:
    """Random views, every photo with numbers of its own.

    Args:
        pixels: uint8 [M, S, S, 3] squares of the share. sizes: int64 [N, 2], width and height of the whole batch's originals.
        generator: on the CPU; all draws come from it in one order, so a step's views are a function of its seed.
        share: the part of the batch that is wanted. Numbers are drawn for all of it, so that several processes see what one would.
    Returns:
        Normalised float32 [M, 3, H, H] on the pixels' device, channels last.
    """
    drawn, device = draw_views(sizes, generator, data, augment, share), pixels.device
    factors = [kept for kept in drawn[3:] if kept is not None]
    stored, crop, flips, *rest = sent_together([stored_sizes(sizes[share], pixels.shape[1]), *drawn[:2], *factors, *drawn.turns], device)
    changes = tuple(None if kept is None else rest.pop(0) for kept in drawn[3:])
    line = line_to_input(data.mean, data.std, device)
    show = way_to_show(device, changes)
    return show(pixels, stored, crop, flips, tuple(rest), changes, data.image_size, line)


def sent_together(numbers: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """A few numbers for each photo on the device: to a GPU by one copy."""
    if device.type != "cuda":
        return list(numbers)
    columns = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in numbers]
    pieces = sent(torch.cat(columns, dim=1), device).split([column.shape[1] for column in columns], dim=1)
    return [piece.reshape(part.shape) for piece, part in zip(pieces, numbers, strict=True)]


def grey(views: Tensor) -> Tensor:
    """[N, 1, H, W] by ITU-R BT.601's weights, as torchvision's and Pillow's."""
    return (views * luma(views.device)).sum(1, keepdim=True)


@functools.cache  # a tensor made on the host would be waited for at every step
def luma(device: torch.device) -> Tensor:
    return torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)


def mean_grey(views: Tensor) -> Tensor:
    return grey(views).mean((1, 2, 3), keepdim=True)


def evaluation_views(pixels: Tensor, sizes: Tensor, data: Data, place: tuple[int, int] = (0, 0)) -> Tensor:
    """The course's validation view: short side to image_size / crop_pct, centre crop, normalise. Shapes as in `training_views`.

    place: of the crop instead, across and down: -1, 0 or 1; (1, -1) is the upper right corner.
    """
    n, device = len(pixels), pixels.device
    stored = stored_sizes(sizes, pixels.shape[1]).to(device)
    crop = centre_crop(sizes, data.resize_side, data.image_size)
    if place != (0, 0):
        half = crop[:, 2:]
        crop = torch.cat(((1 - half) * torch.tensor(place), half), dim=1)
    line = line_to_input(data.mean, data.std, device)
    unchanged = (None, None, None)
    show = way_to_show(device, unchanged)
    return show(pixels, stored, crop.to(device), torch.ones(n, 2, device=device), (), unchanged, data.image_size, line)


def stored_sizes(sizes: Tensor, square: int) -> Tensor:
    """float32 [N, 2]: a photo smaller than the square was stored as it is."""
    return sizes.clamp(max=square).float()
