"""The widest student at a limit: its widths scaled together until they meet the limit from below, then channel by channel."""

import math
from functools import cache

import torch
from torch import nn

from kit.config.schema import Student
from kit.errors import KitError
from kit.models.library import is_library
from kit.models.students import build_student, count_parameters, find

HALVINGS = 30  # of the interval of scales


def widths_for(student: Student, classes: int) -> tuple[int, ...]:
    """The widths that a recipe means; with `student.parameters` its widths are proportions, solved for that count."""
    return student.widths if student.parameters is None else solve(student.name, student.parameters, classes, student.widths)


def new_student(student: Student, classes: int) -> nn.Module:
    """The student that a recipe means, with new weights."""
    return build_student(student.name, widths_for(student, classes), classes)


@cache
def solve(name: str, limit: int, classes: int, base: tuple[int, ...] = (), multiple: int = 1) -> tuple[int, ...]:
    """The largest widths with at most `limit` parameters: `base` times one factor, rounded down, then single steps wherever they still
    fit, the width that is furthest behind its proportion first. Equal arguments give equal widths.

    Args:
        base: proportions; empty: the table's.
        multiple: of which every width is to be one; a group count in the name is one too.
    Raises:
        KitError: not even the narrowest fits, or the student has no widths.
    """
    if is_library(name):
        raise KitError(f"Student {name!r} has no widths to solve for: leave student.parameters empty, or choose one of the kit's.")
    spec, groups = find(name)
    base, step = base or spec.widths, math.lcm(multiple, *groups)
    ties = [(i,) for i in range(len(base))] if spec.ties is None else spec.ties
    shares = [base[tie[0]] / step for tie in ties]

    def widths(sizes: tuple[int, ...]) -> tuple[int, ...]:
        moved = {place: size * step for tie, size in zip(ties, sizes, strict=True) for place in tie}
        return tuple(moved.get(place, width) for place, width in enumerate(base))

    @cache  # near the limit most factors give the same sizes
    def fits(sizes: tuple[int, ...]) -> bool:
        with torch.device("meta"):
            return count_parameters(build_student(name, widths(sizes), classes)) <= limit

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(max(1, int(share * factor)) for share in shares)

    if not fits(scaled(0)):
        raise KitError(f"No student {name!r} fits into {limit:,} parameters, not even with {step} channels in every layer. Choose another.")
    low, high = 0.0, 1.0
    while fits(scaled(high)):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(scaled(middle)) else (low, middle)
    sizes, open_ = scaled(low), list(range(len(ties)))
    while open_:
        behind = min(open_, key=lambda i: (sizes[i] + 1) / shares[i])
        wider = tuple(size + (i == behind) for i, size in enumerate(sizes))
        if fits(wider):
            sizes = wider
        else:
            open_.remove(behind)  # the others only grow, so it never will
    return widths(sizes)
