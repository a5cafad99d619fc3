import io
import sys

import numpy as np
import pytest
from PIL import Image

from kit.data.decode import photo_digest, photo_size, read_rgb, to_square
from kit.errors import KitError

COLOUR = (220, 120, 20)  # red, green and blue differ


def test_grey_of_16_bits_keeps_its_shades(tmp_path):
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "grey.png")
    for pixels in (np.asarray(read_rgb(tmp_path / "grey.png")), to_square(tmp_path / "grey.png", 64)[0]):
        assert np.abs(pixels[..., 0] - ramp / 257).max() <= 1


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
