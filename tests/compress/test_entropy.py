import zlib

import numpy as np
import pytest

from kit.compress.entropy import decode, encode


def codes(bits, spread, count=5_000):
    draw = np.random.default_rng(bits).normal(2 ** (bits - 1), spread * 2**bits, count)
    return np.rint(draw).clip(0, 2**bits - 1).astype(np.uint8)


def order_0(values):
    """Bytes that no code of single symbols can beat."""
    share = np.bincount(values) / len(values)
    return -(share[share > 0] * np.log2(share[share > 0])).sum() * len(values) / 8


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("spread", [0.15, 0.4])
def test_codes_come_back_and_take_hardly_more_than_their_entropy(bits, spread):
    values = codes(bits, spread)
    coder, stream = encode(values.tobytes(), bits)
    assert decode(coder, stream, len(values), bits) == values.tobytes()
    assert len(stream) <= min(len(values) * bits / 8 + 1, 1.05 * order_0(values) + 150)


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 1000, bytes(range(256))])
def test_empty_constant_and_short_streams_come_back(content):
    coder, stream = encode(content)
    assert decode(coder, stream, len(content)) == content


def test_a_stream_of_another_length_or_coder_is_refused():
    coder, stream = encode(codes(8, 0.02).tobytes())
    with pytest.raises(ValueError, match="codes in a stream"):
        decode(coder, stream, 6_000)
    with pytest.raises(ValueError, match="no coder"):
        decode("zip", stream, 5_000)


def test_a_bomb_is_not_unpacked():
    bomb = zlib.compress(bytes(100_000_000), wbits=-15)
    assert len(decode("huffman", bomb, 1_000)) == 1_000
