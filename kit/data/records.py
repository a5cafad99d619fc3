"""CIFAR's published binary files: records of a label or two in a byte each, then 32 × 32 pixels, all red ones before the green and the
blue (https://www.cs.toronto.edu/~kriz/cifar.html).

A record has the path of its file with its number below it, `train.bin/00017`, and is a photo like any other by it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kit.errors import KitError

SIDE = 32
PIXELS = 3 * SIDE * SIDE  # bytes


@dataclass(frozen=True)
class Kind:
    """training, evaluation: the files of each. labels: bytes before the pixels, of which the last is the class. names: the file of the
    classes' names, a line each."""

    training: tuple[str, ...]
    evaluation: str
    labels: int
    names: str

    @property
    def record(self) -> int:
        """Bytes."""
        return self.labels + PIXELS


KINDS = (
    Kind(("train.bin",), "test.bin", 2, "fine_label_names.txt"),
    Kind(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", 1, "batches.meta.txt"),
)
KIND_OF = {file: kind for kind in KINDS for file in (*kind.training, kind.evaluation)}


def kind_among(files: Collection[str]) -> Kind | None:
    """What the files of a folder are, if they are all there."""
    return next((kind for kind in KINDS if {*kind.training, kind.evaluation} <= set(files)), None)


def is_record(path: Path) -> bool:
    return path.parent.name in KIND_OF and path.parent.is_file()


def list_records(folder: Path, files: Collection[str]) -> tuple[list[Path], np.ndarray]:
    """The paths of all records of these files, in order, and their classes, int64 [N].

    Raises:
        KitError: a file's size is not that of whole records.
    """
    paths: list[Path] = []
    labels = []
    for file in (folder / name for name in files):
        kind, size = KIND_OF[file.name], file.stat().st_size
        if not size or size % kind.record:
            raise KitError(f"{file} has {size:,} bytes, which are no whole records of {kind.record:,}. Fetch it again.")
        found = np.memmap(file, np.uint8, "r", shape=(size // kind.record, kind.record))[:, kind.labels - 1].astype(np.int64)
        paths += [file / f"{row:05}" for row in range(len(found))]
        labels.append(found)
    return paths, np.concatenate(labels)


def class_names(folder: Path, kind: Kind, labels: np.ndarray) -> tuple[str, ...]:
    """As the file beside the records has them; else the numbers."""
    file = folder / kind.names
    names = (
        tuple(file.read_text(encoding="utf-8", errors="replace").split()) if file.is_file() else tuple(map(str, range(labels.max() + 1)))
    )
    if len(names) <= labels.max():
        raise KitError(f"{file} names {len(names)} classes, and a record has label {labels.max()}. Fetch it again.")
    return names


def read_record(path: Path) -> bytes:
    """Labels and pixels."""
    size = KIND_OF[path.parent.name].record
    with open(path.parent, "rb") as file:
        file.seek(int(path.name) * size)
        return file.read(size)


def open_record(path: Path) -> Image.Image:
    planes = np.frombuffer(read_record(path)[-PIXELS:], np.uint8).reshape(3, SIDE, SIDE)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
