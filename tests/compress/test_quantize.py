import numpy as np
import pytest

from kit.compress.quantize import CLIPS, METHODS, best_grid, k_means, multiples, narrow, restore

PER_CHANNEL = ("affine", "symmetric", "codebook")


def weights():
    """Channels whose ranges differ ten-thousandfold, some on one side of zero, as folding leaves them."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(12, 4, 3, 3)) * np.logspace(-3, 1, 12).reshape(-1, 1, 1, 1)
    rows[::3] = np.abs(rows[::3]) + 0.5 * np.abs(rows[::3]).max()
    return rows.astype(np.float32)


def rms(rows):
    return np.sqrt((rows.reshape(len(rows), -1) ** 2).mean(1))


@pytest.mark.parametrize("method", PER_CHANNEL)
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_channel_is_within_the_error_of_its_bits(method, bits):
    """Of steps over twice the largest weight, which is what symmetric codes have; clipping may only lower the squared error."""
    stored = METHODS[method](weights(), bits)
    step = 2 * np.abs(weights()).reshape(12, -1).max(1) / (2**bits - 2)
    assert (stored.codes.dtype, stored.codes.max() < 2**bits) == (np.uint8, True)
    allowed = 0.6 if method != "codebook" else 3 if bits > 6 else 1  # a codebook is shared by all channels
    assert (rms(restore(stored) - weights()) <= allowed * step).all()


@pytest.mark.parametrize("method", ["affine", "symmetric"])
def test_clipping_lowers_the_error_of_long_tailed_channels(method):
    rows = np.random.default_rng(1).standard_t(3, size=(8, 5_000)).astype(np.float32)
    clipped = rms(restore(METHODS[method](rows, 4)) - rows)
    step = np.ptp(rows, axis=1) / 15
    assert (clipped < 0.8 * step / np.sqrt(12)).all()


@pytest.mark.parametrize("method", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [4, 8])
def test_what_a_channel_answers_to_an_even_surface_is_kept(method, bits):
    """To half a step, where rounding each weight to the nearest is off by many."""
    rows = np.random.default_rng(6).normal(size=(20, 400)).astype(np.float32)
    stored = METHODS[method](rows, bits)
    off = np.abs((restore(stored).astype(np.float64) - rows).sum(1))
    assert (off <= 0.51 * stored.vectors[0].astype(np.float32)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
def test_a_constant_tensor_divides_by_nothing(method, value):
    restored = restore(METHODS[method](np.full((3, 2, 1, 1), value, np.float32), 8))
    assert np.allclose(restored, value, rtol=1e-3)
    assert method != "affine" or (restored == value).all()


def test_the_course_decodes_to_its_own_values_to_the_bit():
    tensor = np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32)
    low, high = np.float64(tensor.min()), np.float64(tensor.max())
    codes = np.round((np.float64(tensor) - low) / (high - low) * 255)
    assert (restore(METHODS["course"](tensor, 8)) == (codes / 255 * (high - low) + low).astype(np.float32)).all()


def test_k_means_finds_separate_heaps_and_never_more_centres_than_values():
    draw = np.random.default_rng(3)
    heaps = np.concatenate([draw.normal(at, 0.01, 200) for at in (-2, -0.1, 0.3, 5)])
    assert np.allclose(k_means(heaps, np.ones_like(heaps), 4), [-2, -0.1, 0.3, 5], atol=0.01)
    assert list(k_means(np.array([1.0, 2.0, 1.0]), np.ones(3), 16)) == [1.0, 2.0]


def test_vectors_are_float16_where_that_holds_them():
    assert narrow(np.array([0.1, -3.0, 0.0])).dtype == np.float16
    assert narrow(np.array([0.1, 70_000.0])).dtype == np.float32
    assert narrow(np.array([1e-6, 2.3e-7])).dtype == np.float32
    assert narrow(np.array([1.0, 1e-9])).dtype == np.float16


def test_a_weight_beyond_float16_is_kept_by_half():
    weight = np.array([[70_000.0, -3.0]], np.float32)
    assert (restore(METHODS["half"](weight, 16)) == weight).all()


def test_the_grid_that_is_found_is_the_best_of_all():
    """Most are never tried in full; the answer is as if they were, ties included."""
    rows = np.random.default_rng(5).normal(size=(9, 30)).astype(np.float32)
    scales = np.stack([np.abs(rows).max(1) * clip / 7 for clip in CLIPS]).astype(np.float16)
    ends = np.full(scales.shape, 7, np.int16)
    tried = [multiples(rows, scale, -ends[0][:, None], ends[0][:, None]) for scale in scales]
    wide = scales.astype(np.float32)[:, :, None]
    errors = [((whole * scale - rows).astype(np.float64) ** 2).sum(1) for whole, scale in zip(tried, wide, strict=True)]
    whole, chosen = best_grid(rows, scales, -ends, ends)
    assert (chosen == np.argmin(errors, axis=0)).all()
    assert all((whole[c] == tried[grid][c]).all() for c, grid in enumerate(chosen))
