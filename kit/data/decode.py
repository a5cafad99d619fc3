"""One photo from disk to pixels. Worker processes import this module, so it stays free of torch."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kit.data.records import is_record, open_record, read_record
from kit.errors import KitError

cv2.setNumThreads(0)  # whoever calls it is one of several already
Image.MAX_IMAGE_PIXELS = 500_000_000  # a phone's photo has 200 million; PIL warns of 90 and refuses 180

BITS_PER_SAMPLE = 258  # TIFF's tag
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what a damaged photo raises


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """For what reads a photo: a disk, a mount or a permission that fails says nothing of the photo, which must not pass for a damaged one.

    Raises:
        KitError: one of them has failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # PIL's own, and a damaged header's way to a place before the file's beginning
            raise
        raise KitError(
            f"The photo {path} can't be read ({error.strerror}). Bring its disk or mount back or mend its permissions, and run the same "
            "command again."
        ) from None


def open_photo(path: Path) -> Image.Image:
    """A file, or a record in one."""
    return open_record(path) if is_record(path) else Image.open(path)


def photo_digest(path: Path) -> str:
    with readable(path):
        return hashlib.sha256(read_record(path) if is_record(path) else path.read_bytes()).hexdigest()


def read_rgb(path: Path) -> Image.Image:
    """The whole photo in RGB, turned as stored (as torchvision's ImageFolder does, EXIF's orientation is left alone)."""
    with readable(path), open_photo(path) as image:
        return in_rgb(image)


def in_rgb(image: Image.Image) -> Image.Image:
    """Of 16 bits the upper 8: PIL would cut them off at 255. What is transparent has the colour that is stored.

    Raises:
        ValueError: grey of another kind (12 or 32 bits, floats), of which no number is known to be white.
    """
    if image.mode[0] in "IF":  # grey of more than 8 bits; older PIL's had "I" for a PNG of 16
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
        if bits != (16,) or not (image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")):
            raise ValueError(f"grey of neither 8 nor 16 bits (PIL's mode {image.mode}), whose white isn't known: save it as an 8-bit photo")
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image.info.pop("transparency", None)  # a palette's PIL would warn of
    return image.convert("RGB")


def to_square(path: Path, side: int) -> tuple[np.ndarray, int, int] | str:
    """A photo squeezed into a square that keeps the detail that an input of this size can use.

    Each side longer than `side` is reduced to it, antialiased; a shorter one stays as it is, since enlarging is the warp's work.
    The rest of the square repeats the last row and column, so that sampling at the border needs no special case.

    Crops from a 256 px square are 42 dB from the same crops of the 512 px photo; with PIL's bilinear reduction they were 40 dB, in 1.6
    times the time.

    Returns:
        (uint8 [side, side, 3], width, height of the original), or why the photo doesn't decode.
    Raises:
        KitError: the disk fails.
    """
    try:
        with readable(path), open_photo(path) as image:
            width, height = image.size
            stored = min(width, side), min(height, side)
            image.draft("RGB", stored)  # a JPEG is reduced while it is decoded, by 2, 4 or 8, never below what is stored
            pixels = np.asarray(in_rgb(image))
    except UNREADABLE as error:
        return str(error).replace(str(path), path.name) or type(error).__name__
    if pixels.shape[1::-1] != stored:
        pixels = cv2.resize(pixels, stored, interpolation=cv2.INTER_AREA)
    if stored != (side, side):
        pixels = np.pad(pixels, ((0, side - stored[1]), (0, side - stored[0]), (0, 0)), mode="edge")
    return pixels, width, height


def to_squares(paths: list[Path], side: int) -> list[tuple[np.ndarray, int, int] | str]:
    return [to_square(path, side) for path in paths]


def photo_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header; (0, 0) where that is none.

    Raises:
        KitError: the disk fails.
    """
    try:
        with readable(path), open_photo(path) as image:
            return image.size
    except UNREADABLE:
        return 0, 0
