"""A tensor as small whole numbers: k bits a weight, and the few vectors that lead back.

| method | weight ≈ | vectors |
|---|---|---|
| affine | (code − 2^(k−1) + shift) · scale | scale and a one-byte shift of every output channel |
| symmetric | (code − 2^(k−1)) · scale | scale of every output channel |
| codebook | scale · centre[code] | 2^k centres of the tensor, found by k-means, and a scale of every output channel |
| half | the one number, float16; the codes say nothing | the tensor |
| course | min + code / 255 · (max − min) | min and max of the tensor: HW7's own 8 bits, to the bit |

Where the range of a channel is cut off decides the error at few bits: CLIPS are tried for every channel and the least squared error
wins. Codes are rounded against the scales as the reader will have them, float16 where that holds them.

Measured by the error of the logits of a trained `record` (rms, in their standard deviations, 493 photos, affine at 8 / 6 / 4 bits):
31 even clips 0.013 / 0.063 / 0.224; the clips below 0.011 / 0.053 / 0.194; and sums kept (`multiples`) 0.008 / 0.032 / 0.149.
Where photos are at hand, these codes are where calibrate.py begins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Shares of a channel's range that the codes may span; beyond it, weights are cut to its ends. The many near 1 cut hardly anything:
# nine weights of a depthwise kernel happen to lie well on one of so many grids.
CLIPS = np.concatenate([[1], np.linspace(1.06, 0.8, 131), np.linspace(0.79, 0.4, 20)])
AT_ONCE = 2**15  # weights, times the grids that they are rounded on together: more leave the core's cache
LLOYD = 60  # rounds of k-means; in one dimension it settles in far fewer


@dataclass(frozen=True)
class Quantized:
    """codes: uint8, of the tensor's shape, below 2^bits. vectors: what the method needs to go back, float16, float32 or int8."""

    method: str
    bits: int
    codes: np.ndarray
    vectors: tuple[np.ndarray, ...]


def narrow(values: np.ndarray) -> np.ndarray:
    """float16 where that is within a thousandth of every value (or a millionth of the largest), else float32."""
    values = values.astype(np.float32)
    allowed = 1e-3 * np.abs(values) + 1e-6 * np.abs(values).max(initial=0)
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
        return half if (np.abs(half.astype(np.float32) - values) <= allowed).all() else values


def as_rows(weight: np.ndarray) -> np.ndarray:
    """[C, …] → float32 [C, n]."""
    return weight.astype(np.float32).reshape(len(weight), -1)


def per_channel(vector: np.ndarray, ndim: int) -> np.ndarray:
    """[C] → float32 [C, 1, …], to multiply with a tensor of `ndim` dimensions."""
    return vector.astype(np.float32).reshape((-1,) + (1,) * (ndim - 1))


def best_grid(rows: np.ndarray, scales: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(multiples of the scale int16 [C, n], which grid [C]) of least squared error for every channel; the first wins a tie.

    Rounding to the nearest, without `multiples`' correction of the sum, errs less and costs a tenth. So the grids are tried in the order of
    that error, and a channel is done when it alone is above the best whole error so far: a dozen of 152 for most.

    Args:
        scales: float [K, C] of every grid. lows, highs: int16 [K, C], ends of its multiples.
    """
    bounds = nearest_errors(rows, scales, lows, highs)
    again = (scales[1:] == scales[:-1]) & (lows[1:] == lows[:-1])
    bounds[1:][again] = np.inf  # clips that float16 does not tell apart
    order, (_, channels) = bounds.argsort(0, kind="stable"), bounds.shape
    least, chosen, kept = np.full(channels, np.inf), np.zeros(channels, np.int64), np.zeros(rows.shape, np.int16)
    for grids in order:
        (left,) = np.nonzero(bounds[grids, np.arange(channels)] <= least * (1 + 1e-6))
        left = left[np.isfinite(bounds[grids[left], left])]
        if not len(left):
            break
        grids, part = grids[left], rows[left]
        scale = scales[grids, left]
        whole = multiples(part, scale, lows[grids, left][:, None], highs[grids, left][:, None])
        error = ((whole * per_channel(scale, 2) - part).astype(np.float64) ** 2).sum(1)
        better = (error < least[left]) | ((error == least[left]) & (grids < chosen[left]))
        least[left[better]], chosen[left[better]], kept[left[better]] = error[better], grids[better], whole[better]
    return kept, chosen


def nearest_errors(rows: np.ndarray, scales: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> np.ndarray:
    """[K, C]: squared error of rounding to the nearest multiple of each grid's scale between its low and high; zero scales give zeros."""
    errors, at_once = np.empty(scales.shape), max(1, AT_ONCE // rows.size)
    inverse = 1 / np.where(scales == 0, np.inf, scales).astype(np.float32)
    for start in range(0, len(scales), at_once):
        grids = slice(start, start + at_once)
        steps = rows * inverse[grids, :, None]
        off = np.rint(steps)
        np.clip(off, lows[grids, :, None], highs[grids, :, None], out=off)
        off -= steps
        errors[grids] = np.einsum("kcn,kcn->kc", off, off, dtype=np.float64)
    return errors * scales.astype(np.float64) ** 2 + (rows**2).sum(1) * (scales == 0)


def multiples(rows: np.ndarray, scale: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """int16 [C, n]: whole multiples of the scale between low and high [C, 1], rounded so that a channel's errors add up to less than a
    step; 0 where the scale is 0.

    What a channel answers to an even surface is its weights' sum, and inputs after an activation are mostly such. So after rounding to
    the nearest, as many weights as the sum is off by go the other way, those that were closest to it (SQuant, Guo et al. 2022).
    """
    steps = rows / np.where(scale == 0, 1, scale).astype(np.float32)[:, None]
    whole = np.rint(steps).clip(low, high)
    left = steps - whole
    owed = np.rint(left.sum(1, keepdims=True))
    sign = np.sign(owed)
    free = (left * sign > 0) & (whole + sign >= low) & (whole + sign <= high)
    order = np.where(free, -left * sign, 1).argsort(axis=1, kind="stable")
    chosen = np.zeros_like(free)
    np.put_along_axis(chosen, order, np.arange(rows.shape[1]) < np.abs(owed), axis=1)
    return (whole + sign * (free & chosen)).astype(np.int16)


def affine(weight: np.ndarray, bits: int) -> Quantized:
    """The shift is a whole number of steps in one byte, so a channel costs three bytes instead of a float offset's four, and zero is
    exact where the range holds it. A range that lies far from zero is reached with larger steps; a constant channel with one."""
    rows, middle = as_rows(weight), 2 ** (bits - 1)
    low, high, largest = rows.min(1), rows.max(1), np.abs(rows).max(1)
    least = largest / (middle + 126)  # the largest multiple that a code and a shift can make

    def scale_of(clip: float) -> np.ndarray:
        return np.where(low == high, largest, np.maximum(clip * (high - low) / (2 * middle - 1), least))

    kind = narrow(scale_of(1)).dtype
    scales = np.stack([scale_of(clip).astype(kind) for clip in CLIPS])
    starts = np.stack([np.where(low == high, np.minimum(low, 0), low + (1 - clip) / 2 * (high - low)) for clip in CLIPS])
    shifts = (np.rint(starts / np.where(scales == 0, 1, scales).astype(np.float32)) + middle).clip(-128, 127).astype(np.int8)
    lows = shifts.astype(np.int16) - np.int16(middle)
    whole, chosen = best_grid(rows, scales, lows, lows + np.int16(2 * middle - 1))
    scale, shift = (table[chosen, np.arange(len(rows))] for table in (scales, shifts))
    codes = whole - shift.astype(np.int16)[:, None] + middle
    return Quantized("affine", bits, codes.astype(np.uint8).reshape(weight.shape), (scale, shift))


def symmetric(weight: np.ndarray, bits: int) -> Quantized:
    """One code of the 2^bits is given up so that both signs reach equally far."""
    rows, levels = as_rows(weight), 2 ** (bits - 1) - 1
    largest = np.abs(rows).max(1)
    kind = narrow(largest / levels).dtype
    scales = np.stack([(largest * clip / levels).astype(kind) for clip in CLIPS])
    ends = np.full(scales.shape, levels, np.int16)
    whole, chosen = best_grid(rows, scales, -ends, ends)
    codes = (whole + levels + 1).astype(np.uint8).reshape(weight.shape)
    return Quantized("symmetric", bits, codes, (scales[chosen, np.arange(len(rows))],))


def codebook(weight: np.ndarray, bits: int) -> Quantized:
    """Channels are brought to one size first: after folding their ranges differ a hundredfold, and one set of centres would serve the
    largest alone."""
    rows = as_rows(weight)
    scale = narrow(np.sqrt((rows.astype(np.float64) ** 2).mean(1)))
    level = rows / np.where(scale == 0, 1, scale).astype(np.float32)[:, None]
    centres = narrow(k_means(level, np.repeat(scale.astype(np.float64) ** 2, rows.shape[1]), 2**bits))
    between = (centres[1:].astype(np.float32) + centres[:-1].astype(np.float32)) / 2
    return Quantized("codebook", bits, np.searchsorted(between, level).astype(np.uint8).reshape(weight.shape), (centres, scale))


def k_means(values: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """At most `count` centres, ascending, of values (any shape) by Lloyd's algorithm, each value as heavy as its weight. It begins from
    quantiles and from equal steps, and the better end is taken: quantiles leave the tails without a centre, equal steps the middle.
    In one dimension a cluster is an interval of the sorted values, so a round is a search and two differences of running sums."""
    order = np.argsort(values, axis=None, kind="stable")
    ordered, heavy = values.ravel()[order].astype(np.float64), np.maximum(weights.ravel()[order], 1e-30)
    different = np.unique(ordered)
    if len(different) <= count:
        return different
    mass, moment = (np.concatenate([[0], np.cumsum(v)]) for v in (heavy, heavy * ordered))

    def settle(centres: np.ndarray) -> tuple[float, np.ndarray]:
        for _ in range(LLOYD):
            edges = np.concatenate([[0], np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2), [len(ordered)]])
            inside = np.diff(mass[edges])
            centres = np.where(np.diff(edges) > 0, np.diff(moment[edges]) / np.where(inside > 0, inside, 1), centres)
        centres = np.sort(centres)
        nearest = centres[np.searchsorted((centres[1:] + centres[:-1]) / 2, ordered)]
        return float((heavy * (nearest - ordered) ** 2).sum()), centres

    starts = (np.quantile(different, (np.arange(count) + 0.5) / count), np.linspace(ordered[0], ordered[-1], count))
    return min((settle(start) for start in starts), key=lambda end: end[0])[1]


def course(weight: np.ndarray, bits: int) -> Quantized:
    """HW7's own: it divides by zero on a constant tensor; here all its codes are 0, which its decoding reads as the constant."""
    wide = weight.astype(np.float64)
    low, high = wide.min(), wide.max()
    codes = np.round((wide - low) / (high - low or 1) * 255).astype(np.uint8)
    return Quantized("course", 8, codes, (np.array([low, high], np.float32),))


def half(weight: np.ndarray, bits: int) -> Quantized:
    """A folded norm may bring a weight over float16's largest, 65,504: its tensor stays float32."""
    large = np.abs(weight).max(initial=0) > np.finfo(np.float16).max
    return Quantized("half", 1, np.zeros(weight.shape, np.uint8), (weight.astype(np.float32 if large else np.float16).ravel(),))


METHODS: dict[str, Callable[[np.ndarray, int], Quantized]] = {
    "affine": affine,
    "symmetric": symmetric,
    "codebook": codebook,
    "course": course,
    "half": half,
}


def restore(stored: Quantized) -> np.ndarray:
    """float32, of the codes' shape.

    Raises:
        ValueError: no such method, or vectors that are not its own. IndexError: a code beyond the codebook.
    """
    codes, middle = stored.codes, 2 ** (stored.bits - 1)
    match stored.method, stored.vectors:
        case "affine", (scale, shift):
            return (codes.astype(np.float32) - middle + per_channel(shift, codes.ndim)) * per_channel(scale, codes.ndim)
        case "symmetric", (scale,):
            return (codes.astype(np.float32) - middle) * per_channel(scale, codes.ndim)
        case "codebook", (centres, scale):
            return centres.astype(np.float32)[codes] * per_channel(scale, codes.ndim)
        case "half", (numbers,):
            return numbers.astype(np.float32).reshape(codes.shape)
        case "course", (ends,):
            low, high = ends.astype(np.float64)
            return (codes.astype(np.float64) / 255 * (high - low) + low).astype(np.float32)
    raise ValueError(f"no way to restore {stored.method!r} from {len(stored.vectors)} vectors")
