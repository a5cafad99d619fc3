"""`show_views` as one Triton kernel: on a GPU a view is sampled, cut, brightened and normalised in one pass over its pixels.

A program makes a tile of one view, all channels of each pixel, so that where it lies in its photo is worked out once. A warp's 32 pixels
are a patch of 8×4: turned by any angle, they lie in few rows of the photo. The angles' sines are of the device, so a view is the CPU's
to rounding, and on a corner's edge to a pixel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 16  # pixels a program makes along each side
ANGLES = 11  # where they begin among a view's numbers; views.COLUMNS says what comes before


def show(pixels: Tensor, numbers: Tensor, side: int, line: tuple[Tensor, Tensor], changes: tuple[bool, bool, bool]) -> Tensor:
    """Arguments and result as of `show_views`; contrast and saturation are not changed here."""
    n, square = pixels.shape[:2]
    out = torch.empty(n, side, side, 3, device=pixels.device)
    columns = numbers.shape[1]
    tiles = triton.cdiv(side, TILE)
    view[tiles, tiles, n](pixels, numbers, *line, out, side, square, columns, changes[0], columns - ANGLES, TILE)
    return out.permute(0, 3, 1, 2)


@triton.jit
def view(pixels, numbers, shift, scale, out, side, square, columns, BRIGHT: tl.constexpr, TURNS: tl.constexpr, TILE: tl.constexpr):
    n = tl.program_id(2).to(tl.int64)
    at = numbers + n * columns
    i = tl.arange(0, TILE * TILE)
    patch, across = i // 32, TILE // 8
    j = tl.program_id(0) * TILE + patch % across * 8 + i % 8
    i = tl.program_id(1) * TILE + patch // across * 4 + i // 8 % 4
    x = (j.to(tl.float32) + 0.5) * (2.0 / side) - 1
    y = (i.to(tl.float32) + 0.5) * (2.0 / side) - 1
    inside = (i < side) & (j < side)
    seen = inside
    for turn in tl.static_range(TURNS):  # from the output back to the photo: the last turn first, each cutting its own corners
        angle = tl.load(at + columns - 1 - turn)
        c, s = tl.cos(angle), tl.sin(angle)
        x, y = c * x + s * y, c * y - s * x
        seen = seen & (tl.abs(x) <= 1) & (tl.abs(y) <= 1)
    x = on_square(x, at, 0, square)
    y = on_square(y, at, 1, square)
    left, top = tl.floor(x), tl.floor(y)
    right, down = x - left, y - top
    column, row = left.to(tl.int32), top.to(tl.int32)
    next_column, next_row = tl.minimum(column + 1, square - 1), tl.minimum(row + 1, square - 1)
    photo = pixels + n * square * square * 3
    for channel in tl.static_range(3):
        upper, lower = photo + row * square * 3 + channel, photo + next_row * square * 3 + channel
        nw = tl.load(upper + column * 3, mask=seen, other=0).to(tl.float32)
        ne = tl.load(upper + next_column * 3, mask=seen, other=0).to(tl.float32)
        sw = tl.load(lower + column * 3, mask=seen, other=0).to(tl.float32)
        se = tl.load(lower + next_column * 3, mask=seen, other=0).to(tl.float32)
        value = (nw * (1 - right) + ne * right) * (1 - down) + (sw * (1 - right) + se * right) * down
        if BRIGHT:
            value = tl.minimum(value * tl.load(at + 8), 255.0)
        value = tl.load(shift + channel) + value * tl.load(scale + channel)
        tl.store(out + ((n * side + i) * side + j) * 3 + channel, value, mask=inside)


@triton.jit
def on_square(x, at, axis: tl.constexpr, square):
    """From the turned output to the window of the photo and on to the square's pixels, held inside it."""
    share = tl.load(at + axis) / square
    centre, half, flip = tl.load(at + 2 + axis), tl.load(at + 4 + axis), tl.load(at + 6 + axis)
    place = x * (share * half * flip) + share * (centre + 1) - 1
    return tl.minimum(tl.maximum(((place + 1) * square - 1) * 0.5, 0.0), square - 1.0)
