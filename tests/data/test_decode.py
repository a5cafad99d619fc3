import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from kit.data.decode import photo_digest, photo_size, read_rgb, to_square
from kit.errors import KitError

COLOUR = (220, 120, 20)  # red, green and blue differ


def ramp(highest):
    return np.linspace(0, highest, 64 * 64).reshape(64, 64)


@pytest.mark.parametrize(("name", "numbers"), [("grey.png", "<u2"), ("grey.tif", "<u2"), ("grey.tif", ">u2")])
def test_grey_of_16_bits_keeps_its_shades(tmp_path, name, numbers):
    Image.fromarray(ramp(65_535).astype(numbers)).save(tmp_path / name)
    for pixels in (np.asarray(read_rgb(tmp_path / name)), to_square(tmp_path / name, 64)[0]):
        assert np.abs(pixels[..., 0] - ramp(65_535) / 257).max() <= 1


@pytest.mark.parametrize(("numbers", "highest"), [("i4", 2**31 - 1), ("i4", 255), ("f4", 1)])
def test_grey_whose_white_is_not_known_does_not_decode(tmp_path, numbers, highest):
    """It became a black square, or a white one, without a word."""
    Image.fromarray(ramp(highest).astype(numbers)).save(tmp_path / "grey.tif")
    assert photo_size(tmp_path / "grey.tif") == (64, 64)
    assert "whose white isn't known: save it as an 8-bit photo" in to_square(tmp_path / "grey.tif", 64)
    with pytest.raises(ValueError, match="grey of neither 8 nor 16 bits"):
        read_rgb(tmp_path / "grey.tif")


def test_grey_of_12_bits_does_not_decode_either(tmp_path):
    """PIL gives it the mode of 16."""
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 102), (277, 1), (279, 96)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "grey.tif").write_bytes(head.ljust(102, b"\0") + bytes(range(96)))
    assert "grey of neither 8 nor 16 bits" in to_square(tmp_path / "grey.tif", 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_shades_are_the_same_in_every_mode_and_what_is_transparent_keeps_its_colour(tmp_path, mode, kind):
    half = Image.fromarray((ramp(1) > 0.5).astype(np.uint8) * 255)
    half.convert(mode).save(tmp_path / f"photo.{kind}", **({"transparency": bytes([0, 100])} if (mode, kind) == ("P", "png") else {}))
    for pixels in (np.asarray(read_rgb(tmp_path / f"photo.{kind}")), to_square(tmp_path / f"photo.{kind}", 64)[0]):
        assert (pixels == np.asarray(half)[..., None]).all()


@pytest.mark.parametrize(("kind", "mode"), [("jpg", "RGB"), ("jpg", "CMYK"), ("png", "RGBA"), ("png", "P")])
def test_colours_stay_red_green_and_blue_in_every_feed(tmp_path, kind, mode):
    file = tmp_path / f"photo.{kind}"
    Image.new("RGB", (200, 120), COLOUR).convert(mode).save(file, **({"quality": 95} if kind == "jpg" else {}))
    square, width, height = to_square(file, 64)
    assert (width, height) == (200, 120)
    for pixels in (np.asarray(read_rgb(file)), square):
        assert np.abs(pixels.reshape(-1, 3).mean(0) - COLOUR).max() < 6


def test_a_phones_photo_of_200_megapixels_is_one(tmp_path):
    Image.new("1", (16_320, 12_240)).save(tmp_path / "photo.png")
    assert photo_size(tmp_path / "photo.png") == (16_320, 12_240)


@pytest.mark.skipif(sys.platform != "linux", reason="has a file that no disk can read: /proc/self/mem, from its beginning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PIL leaves a file open that it can't begin to read
@pytest.mark.parametrize("look", [photo_digest, photo_size, read_rgb, lambda path: to_square(path, 64)])
def test_a_disk_that_fails_makes_no_photo_a_damaged_one(tmp_path, look):
    (photo := tmp_path / "photo.jpg").symlink_to("/proc/self/mem")
    with pytest.raises(KitError, match=r"photo\.jpg can't be read \(Input/output error\)\. Bring its disk"):
        look(photo)
    photo.unlink()
    with pytest.raises(KitError, match=r"photo\.jpg can't be read \(No such file"):
        look(photo)


def test_a_header_that_leads_nowhere_is_the_photos_own_fault(tmp_path):
    """JPEG 2000 with a box of another length: to the place that PIL looks for the next one at, the system can't go."""
    Image.new("RGB", (64, 64), COLOUR).save(whole := io.BytesIO(), "JPEG2000")
    (photo := tmp_path / "photo.jp2").write_bytes(whole.getvalue()[:15] + b"\x80" + whole.getvalue()[16:])
    assert "Invalid argument" in to_square(photo, 64)
