"""One warp from the cached square to the view: every geometric step of a recipe becomes one matrix, the photo is sampled once.

Coordinates are normalised: (-1, -1) is the upper left corner of a picture and (1, 1) its lower right one, pixels' outer edges
included. `crop_N4` is the window (centre x, centre y, half width, half height) that a view shows of its photo.

Shapes: N views of photos in S×S squares, H×H output. Everything is float32: half-precision `grid_sample` is wrong on the CPU, and
half-precision grids lose pixels on a GPU too.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_CHUNK = 2  # views for each thread, so that grids and pixels stay inside a core's cache; with 8 a view takes 1.4 times as long


def warp(
    pixels_NSSC: Tensor,
    stored_N2: Tensor,
    crop_N4: Tensor,
    flip_N2: Tensor,
    turns: tuple[Tensor, ...],
    side: int,
    finish: Callable[[Tensor, slice], Tensor] = lambda views, part: views,
) -> Tensor:
    """Sample views bilinearly, black wherever a rotation has nothing to show.

    Args:
        pixels_NSSC: uint8 squares.
        stored_N2: the photo's part of its square (width, height), px, counted from the upper left.
        flip_N2: +1 or -1 for x and y.
        turns: angles in radians, [N] each, in the order in which they are applied. Every turn cuts its own corners, as
            torchvision does when it rotates twice, so the black area is that of the two-step original.
        side: of the output, px.
        finish: is given views in 0…255 while they are still in the core's cache, and where they lie in the batch.
    Returns:
        What `finish` makes of them, float32 [N, 3, side, side], channels last in memory.
    """
    n, square = pixels_NSSC.shape[:2]
    out = torch.empty(n, side, side, 3, device=pixels_NSSC.device).permute(0, 3, 1, 2)
    step = n if pixels_NSSC.is_cuda else CPU_CHUNK * torch.get_num_threads()
    turned = turn_by_turn(turns, n, pixels_NSSC.device)
    grid_N23 = to_square(turned[-1], stored_N2, crop_N4, flip_N2, square)
    corners_NK3 = torch.cat(turned[1:], dim=1) if turns else None
    for i in range(0, n, step):
        part = slice(i, i + step)
        grid = coordinates(grid_N23[part], side).permute(0, 2, 3, 1)
        views = F.grid_sample(pixels_NSSC[part].permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
        if corners_NK3 is not None:
            views *= coordinates(corners_NK3[part], side).abs_().amax(dim=1, keepdim=True) <= 1
        out[part] = finish(views, part)
    return out


def turn_by_turn(turns: tuple[Tensor, ...], n: int, device: torch.device) -> list[Tensor]:
    """From the output back to the photo: where the output's coordinates are after no turn, after the last, the one before … as [N, 2, 3],
    the factors of x, y and 1 that give (x, y)."""
    steps = [torch.eye(2, 3, device=device).expand(n, 2, 3)]
    for turn in reversed(turns):
        x, y = steps[-1].unbind(1)
        c, s = turn.cos()[:, None], turn.sin()[:, None]
        steps.append(torch.stack((c * x + s * y, c * y - s * x), dim=1))
    return steps


def to_square(turned_N23: Tensor, stored_N2: Tensor, crop_N4: Tensor, flip_N2: Tensor, square: int) -> Tensor:
    """From the turned output to the window of the photo, and to the square, of which small photos fill a corner only; [N, 2, 3]."""
    share = stored_N2 / square
    place = turned_N23 * (share * crop_N4[:, 2:] * flip_N2)[..., None]
    place[..., 2] += share * (crop_N4[:, :2] + 1) - 1
    return place


def coordinates(factors_NK3: Tensor, side: int) -> Tensor:
    """x·factor + y·factor + factor at every pixel of the output, [N, K, H, H]: a line of x plus a line of y."""
    line = (torch.arange(side, device=factors_NK3.device) + 0.5) * (2 / side) - 1
    x, y, one = factors_NK3.unbind(-1)
    return (x[..., None] * line)[:, :, None, :] + (y[..., None] * line + one[..., None])[..., None]


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """0…255 to the networks' input, [N, 3, H, W]; black becomes (0 - mean) / std, as Normalize after a black fill gives."""
    shift, scale = line_to_input(mean, std, pixels.device)
    return torch.addcmul(shift, pixels, scale)


@functools.cache  # tensors made on the host would be waited for at every step
def line_to_input(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What is added and what is multiplied by, [1, C, 1, 1] each."""
    scale = torch.tensor(std, device=device).mul(255).reciprocal().view(1, -1, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(1, -1, 1, 1)
    return shift, scale


def centre_crop(sizes_N2: Tensor, short: int, side: int) -> Tensor:
    """The windows of torchvision's Resize(short) and CenterCrop(side), [N, 4], rounded to whole pixels as there."""
    sizes = sizes_N2.double()
    resized = (short * sizes / sizes.min(dim=1, keepdim=True).values).floor()
    corner = ((resized - side) / 2).round()
    return torch.cat(((2 * corner + side) / resized - 1, side / resized), dim=1).float()


def random_resized_crop(sizes_N2: Tensor, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    """torchvision's RandomResizedCrop windows in each photo's own pixels, [N, 4]: the first of ten tries that fits.

    Where none does: the whole photo, cropped in the centre to the nearest allowed ratio, as there.
    """
    n = len(sizes_N2)
    draws = torch.rand(n, 10, 2, generator=generator)
    corner = torch.rand(n, 2, generator=generator)
    width, height = sizes_N2.cpu().double().unbind(1)
    area = (width * height)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws[..., 0].double())
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[..., 1].double())
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= width[:, None]) & (h >= 1) & (h <= height[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    own = width / height
    w = torch.where(fits.any(1), w.gather(1, first)[:, 0], torch.where(own > ratio[1], (height * ratio[1]).round(), width))
    h = torch.where(fits.any(1), h.gather(1, first)[:, 0], torch.where(own < ratio[0], (width / ratio[0]).round(), height))
    free = torch.stack((width - w, height - h), dim=1)
    start = torch.where(fits.any(1, keepdim=True), (corner * (free + 1)).floor(), (free / 2).round())
    sizes, window = torch.stack((width, height), 1), torch.stack((w, h), 1)
    return torch.cat(((2 * start + window) / sizes - 1, window / sizes), dim=1).float()
