"""What a run is refused for before anything is spent on it: what can't be handed in, built, packed, or trained by these teachers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from kit.compress.surgery import refuse_unprunable
from kit.config.competitions import check_limits, competition
from kit.config.schema import Config
from kit.console import Log
from kit.errors import KitError
from kit.models.blocks import Branches
from kit.models.library import is_library, refuse_unusable, shapes_on
from kit.models.students import count_parameters
from kit.models.teacher import build_teacher
from kit.models.widths import new_student
from kit.session import Session
from kit.stages.begin import check_beginning, check_learnt
from kit.stages.packing import packed_size
from kit.stages.photos import Material, make_order
from kit.stages.prune import bytes_allowed, narrowed, target_of
from kit.stages.rehearsal import as_if_trained
from kit.stages.student import check_terms, factorised
from kit.stages.teacher_file import file_of, read_teacher
from kit.stages.weights import refuse_balanced

LEFT_OF_TWO = {"dkd": "alpha", "dist": "gamma"}  # classes; the term's other part is then a constant
LEANER = 1.25  # times the limit of bytes that a new student may take: HW7's trained one has a seventh less entropy than its bits


def check_recipe(config: Config, log: Log, teacher_files: Sequence[Path] = (), begin: Path | None = None) -> None:
    """What can't be handed in, built, packed, or trained by these teachers is refused before anything is spent on it."""
    refuse_balanced(config)
    rules = competition(config.competition)
    classes = len(rules.classes) if rules.classes else 2  # of an "any" folder: at least
    student = new_student(config.student, classes)
    refuse_unfit(config, student)
    refuse_too_large(config, classes, log)
    for mark in check_limits(config.competition, count_parameters(student)) if config.limit else []:
        log(f"note: {mark} (kept as published; its own limit is {config.limit}'s)")
    teachers = [read_teacher(file_of(source), config, rules.classes) for source in teacher_files]
    check_terms(config, teachers[0] if teachers else teacher_shape(config, classes))
    if begin:
        check_beginning(begin, config)


def check_photos(session: Session, material: Material, begin: Path | None) -> None:
    """What only the photos tell: too many classes that had no names or too few for a term, batches that can't be shared, another student's
    classes.

    Raises:
        KitError: it is refused for one of these, before a teacher is trained.
    """
    config, dataset = session.config, material.dataset
    if not session.rules.classes:
        refuse_too_large(config, len(dataset.classes), session.log)
    if len(dataset.classes) == 2:
        refuse_of_two(config)
    make_order(session, material, "distil", config.train, config.data.augment)  # refuses batches that can't be shared
    if begin:
        check_learnt(begin, config, dataset)


def refuse_of_two(config: Config) -> None:
    """Two classes' logits are one number, their difference, and some terms look at what else there would be.

    Raises:
        KitError: nothing could be learnt from one.
    """
    for term in config.distill:
        if getattr(term, "standardise", False):
            raise KitError(
                "standardise makes the same z-scores, +0.71 and -0.71, of any two logits, and there are two classes: a student would learn "
                "nothing from them. Leave it out of the terms of distill."
            )
        if (part := LEFT_OF_TWO.get(term.loss)) and not getattr(term, part):
            raise KitError(
                f"Of two classes {part} is all that is left of {term.loss}, and it is 0: a student would learn nothing from the term. Give "
                f"{part} a weight, or take another term."
            )


def teacher_shape(config: Config, classes: int) -> nn.Module:
    with torch.device(shapes_on(config.teacher.arch)):
        return build_teacher(config.teacher.arch, classes)


def refuse_too_large(config: Config, classes: int, log: Log) -> None:
    """What can't be handed in as it is, or as its plan is to prune and thin it.

    Raises:
        KitError: it would be over the limit.
    """
    student = new_student(config.student, classes)
    refuse_over_limit(config, student, classes)
    refuse_too_many_bytes(config, student, classes, log)


def refuse_over_limit(config: Config, student: nn.Module, classes: int) -> None:
    name = config.student.name
    pruned = as_if_pruned(config, student, classes) if config.prune else student
    if config.lowrank:  # whether its layers can be as thin as that
        refuse_unusable(name, factorised(pruned, config), config.data.image_size)
    elif not config.prune and (broken := check_limits(config.whose_limit, count_parameters(student))):
        remedy = "Choose a smaller one" if is_library(name) else "Set student.parameters, smaller student.widths, or prune"
        raise KitError(f"The student {name!r} can't be handed in: {'; '.join(broken)}. {remedy}.")


def as_if_pruned(config: Config, student: nn.Module, classes: int) -> nn.Module:
    """The student as the last step of pruning may leave it, for its shapes.

    Raises:
        KitError: a copy of this student can't be had that keeps the target.
    """
    likely, names = as_if_trained(student), tuple(map(str, range(classes)))
    return narrowed(config, likely, target_of(config, likely, names), names, bytes_allowed(config))[0]


def refuse_too_many_bytes(config: Config, student: nn.Module, classes: int, log: Log) -> None:
    """What is not pruned under a limit of bytes is packed before it is trained: weights take about as many then as after."""
    most = competition(config.whose_limit).max_bytes
    if config.prune or not most:
        return
    size = packed_size(config, factorised(student, config) if config.lowrank else student, tuple(map(str, range(classes))))
    says = f"new, it is packed into {size:,} bytes, and {config.whose_limit} allows {most:,}"
    if size > LEANER * most:
        raise KitError(f"The student {config.student.name!r} can't be handed in: {says}. Lower pack.bits, choose a smaller one, or prune.")
    if size > most:
        log(f"note: the student may be over the limit once it is trained: {says}")


def refuse_unfit(config: Config, student: nn.Module) -> None:
    """What a later stage could not do with this student."""
    name = config.student.name
    if config.pack.method == "course" and any(isinstance(m, Branches) for m in student.modules()):
        raise KitError(
            f"pack.method 'course' stores a student as it is trained, and {name!r} is deployed without its branches: use 'affine'."
        )
    refuse_unusable(name, student, config.data.image_size)
    if is_library(name) and config.prune:
        refuse_unprunable(name, as_if_trained(student), config.data.image_size)
