"""`kit export`: a run's student, or any file of weights, in another program's format."""

from pathlib import Path

import torch
from torch import Tensor

from kit.compress.fold import unfold
from kit.compress.foreign import read_foreign, write_foreign
from kit.compress.pack import is_packed, unpack
from kit.console import Log
from kit.errors import KitError
from kit.models.students import build_student, widths_of
from kit.train.checkpoint import saved_in, whole


def export(source: Path, form: str, out: Path) -> str:
    """Write the weights of a run's folder or a file; returns what to say.

    Raises:
        KitError: there are none, or no such format.
    """
    weights, origin = weights_of(source)
    size = write_foreign(out, form, weights)
    return f"{out}: {form}, {len(weights)} tensors of {origin}, {size:,} bytes"


def weights_of(source: Path) -> tuple[dict[str, Tensor], str]:
    """(state dict in the shape that is trained, where it is from). A run gives its best trained weights, before they were packed."""
    if source.is_dir():
        return trained_weights(source) or weights_of_file(source / "student.kit")
    return weights_of_file(source)


def trained_weights(out: Path) -> tuple[dict[str, Tensor], str] | None:
    """The best weights of the latest stage that trained the student, None where no checkpoint is left."""
    students = [saved for saved in saved_in(out) if saved.stage != "teacher"]
    for saved, content in whole(reversed(students), Log()):
        if content["state"]["best"]["weights"]:
            return content["state"]["best"]["weights"], saved.path.name
    return None


def weights_of_file(file: Path) -> tuple[dict[str, Tensor], str]:
    """A packed student is unfolded: programs that know its architecture know it with batch norm."""
    if file.name == "student.kit" and not file.is_file():
        raise KitError(f"{file.parent} holds neither a checkpoint of a student nor a student.kit. Give the folder of a run, or a file.")
    if not is_packed(file):
        return read_foreign(file).weights, str(file)
    packed = unpack(file)
    with torch.random.fork_rng(devices=[]):
        student = build_student(packed.config.student.name, widths_of(packed.student), len(packed.classes))
    return unfold(packed.student, student).state_dict(), str(file)
