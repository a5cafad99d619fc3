"""`kit students`: every student side by side, what it holds and what it costs on this machine."""

from collections.abc import Iterator, Sequence

import torch
from rich.table import Table
from rich.text import Text

from kit.compress.fold import fold
from kit.console import counted, progress
from kit.device import choose_device
from kit.errors import KitError
from kit.models.cost import activation_bytes, count_macs, step_seconds
from kit.models.library import is_library, refuse_unusable
from kit.models.students import STUDENTS, build_student, count_parameters, find, widths_of
from kit.models.widths import solve

BATCH, REPEATS = 64, 5  # of the measured step


def compare(names: Sequence[str], image_size: int, classes: int, limit: int | None, multiple: int) -> Iterator[Table | str]:
    """A table, a row a student, and what its columns mean.

    Args:
        names: empty for all of the kit's; timm/NAME works too.
        limit: solve each one's widths for this many parameters, each a multiple of `multiple`.
    Raises:
        KitError: one that is named takes no photos of this size, or has no widths for this limit.
    """
    choose_device()  # its settings of memory and numbers are those of a run
    table = Table("student", "parameters", "trained", "M MACs", "activations", "ms / step", "widths", "says", show_edge=False)
    for column in table.columns[1:6]:
        column.justify, column.no_wrap = "right", True
    with progress("students", len(names or STUDENTS)) as moved:
        for done, name in enumerate(names or STUDENTS):
            moved(done)
            try:
                table.add_row(name, *row(name, image_size, classes, limit, multiple))
            except KitError as error:
                if names:
                    raise
                table.add_row(name, *[""] * (len(table.columns) - 2), Text(str(error)))  # what has brackets is no markup
    yield table
    yield (
        f"{classes} classes at {image_size} px. Parameters as a limit counts them; trained: with the branches that fuse away. MACs of the "
        f"folded network and kB that a training step keeps, each for one photo. ms: median of {REPEATS} steps (forward, backward) of "
        f"{BATCH} photos on the CPU with {counted(torch.get_num_threads(), 'thread')}, student alone, without teacher and views."
    )


def row(name: str, image_size: int, classes: int, limit: int | None, multiple: int) -> list[str]:
    student = build_student(name, solve(name, limit, classes, multiple=multiple) if limit else (), classes)
    refuse_unusable(name, student, image_size)
    parameters, trained = count_parameters(student), sum(p.numel() for p in student.parameters())
    macs, kept = count_macs(fold(student), image_size).total(), activation_bytes(student, image_size)
    seconds = step_seconds(student, image_size, BATCH, REPEATS)
    widths = " ".join(map(str, widths_of(student)))
    says = "timm's" if is_library(name) else find(name)[0].says
    return [f"{parameters:,}", f"{trained:,}", f"{macs / 1e6:.1f}", f"{kept / 1e3:,.0f} kB", f"{1e3 * seconds:.0f}", widths, says]
