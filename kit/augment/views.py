"""Views of whole batches: what the networks see of cached photos, in training and in evaluation."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from kit.augment.warp import centre_crop, line_to_input, random_resized_crop, warp
from kit.config.schema import Augment, Data
from kit.device import sent

ROUNDING = 1e-3  # of a pixel from 0 to 1


COLUMNS = (2, 4, 2, 3)  # of a view's numbers: size in the square, window, flips, factors of colour; its angles come after
Changes = tuple[bool, bool, bool]  # whether brightness, contrast and saturation are changed at all


def draw_views(sizes: Tensor, square: int, generator: torch.Generator, data: Data, augment: Augment, share: slice = slice(None)) -> Tensor:
    """What `training_views` does with each photo; all that is left to the host when a GPU warps.

    Args:
        square: side of the cached squares, px. The others are as there.
    Returns:
        The views' numbers, float32 [M, 11 + T]: `COLUMNS`, then T angles, radians. Flips are ±1, and what is not changed has factor 1.
    """
    n = len(sizes)
    if augment.crop_scale is None:
        crop = centre_crop(sizes, data.resize_side, data.image_size)
    else:
        crop = random_resized_crop(sizes, augment.crop_scale, augment.crop_ratio, generator)
    flips = 1 - 2 * (torch.rand(n, 2, generator=generator) < torch.tensor([augment.horizontal_flip, augment.vertical_flip])).float()

    def within(limit: float) -> Tensor:
        return limit * (2 * torch.rand(n, 1, generator=generator) - 1)

    turns = [within(math.radians(degrees)) for degrees in (augment.rotate, augment.affine_rotate) if degrees]
    factors = [1 + within(augment.brightness)]  # drawn in any case, as it was when it came first: a seed's views stay as they are
    factors += [1 + within(limit) if limit else torch.ones(n, 1) for limit in (augment.contrast, augment.saturation)]
    return torch.cat((stored_sizes(sizes, square), crop, flips, *factors, *turns), dim=1)[share]


def show_views(pixels: Tensor, numbers: Tensor, side: int, line: tuple[Tensor, Tensor], changes: Changes) -> Tensor:
    """What was drawn, done, all of it on the pixels' device.

    Args:
        numbers: as `draw_views` gives them. side: of the views, px. line: as `line_to_input` gives it.
    Returns:
        As `training_views`.
    """
    stored, crop, flips, factors, turns = numbers.split((*COLUMNS, numbers.shape[1] - sum(COLUMNS)), dim=1)
    brightness, contrast, saturation = factors[..., None, None].split(1, dim=1)

    def finish(views: Tensor, part: slice) -> Tensor:
        if changes[0]:
            views = (views * brightness[part]).clamp_(max=255)
        for changed, kept, grey_of in zip(changes[1:], (contrast, saturation), (mean_grey, grey), strict=True):
            if changed:
                views = torch.lerp(grey_of(views), views, kept[part]).clamp_(0, 255)
        return torch.addcmul(line[0], views, line[1])

    return warp(pixels, stored, crop, flips, turns.unbind(1), side, finish)


def way_to_show(device: torch.device, changes: Changes) -> Callable[..., Tensor]:
    """`show_views`, or on a GPU the kernel in its place, where nothing needs a view's mean or its grey."""
    return (kernel(device) if device.type == "cuda" and not any(changes[1:]) else None) or show_views


@functools.cache
def kernel(device: torch.device) -> Callable[..., Tensor] | None:
    """What makes views by one kernel, where it runs and makes those of torch's passes: tried once on noise, for there may be no Triton, no
    C compiler, which it needs, or a card that neither was ever tried on."""
    draw = torch.Generator().manual_seed(0)
    pixels, numbers = torch.rand(2, 8, 8, 3, generator=draw), torch.rand(2, 12, generator=draw)
    numbers[:, :8] *= torch.tensor([0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0])
    numbers[:, :8] += torch.tensor([8, 8, 0, 0, 0, 0, 1, 1])  # whole squares, windows inside them, not flipped
    line = line_to_input((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), device)
    given = ((pixels * 255).byte().to(device), numbers.to(device), 24, line, (True, False, False))
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
    device, changes = pixels.device, (augment.brightness > 0, augment.contrast > 0, augment.saturation > 0)
    numbers = sent(draw_views(sizes, pixels.shape[1], generator, data, augment, share), device)
    return way_to_show(device, changes)(pixels, numbers, data.image_size, line_to_input(data.mean, data.std, device), changes)


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
    device, unchanged = pixels.device, (False, False, False)
    crop = centre_crop(sizes, data.resize_side, data.image_size)
    if place != (0, 0):
        half = crop[:, 2:]
        crop = torch.cat(((1 - half) * torch.tensor(place), half), dim=1)
    numbers = sent(torch.cat((stored_sizes(sizes, pixels.shape[1]), crop, torch.ones(len(pixels), 5)), dim=1), device)
    return way_to_show(device, unchanged)(pixels, numbers, data.image_size, line_to_input(data.mean, data.std, device), unchanged)


def stored_sizes(sizes: Tensor, square: int) -> Tensor:
    """float32 [N, 2]: a photo smaller than the square was stored as it is."""
    return sizes.clamp(max=square).float()
