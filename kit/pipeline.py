"""The story of a run: photos in, a checked submission out.

    photos → teacher → distil → prune → finetune → (low rank) → (train quantized) → quantize → submit

A stage is skipped when its result is there and resumed when it is half there. The prediction is made with the network that was read
back from the packed file, the thing that would be handed in.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kit.compress.surgery import refuse_unprunable
from kit.config.competitions import check_limits, competition
from kit.config.schema import Config
from kit.config.stages import steps_of
from kit.console import Log
from kit.device import shortages_named
from kit.errors import KitError, Suspended
from kit.models.blocks import Branches
from kit.models.library import is_library, refuse_unusable
from kit.models.students import build_student, count_parameters
from kit.models.teacher import build_teacher
from kit.models.widths import widths_for
from kit.report.write import report
from kit.session import Watch, alone, open_session
from kit.stages.assistant import file_of, read_teacher
from kit.stages.finish import hand_in_best_so_far, quantize, submit
from kit.stages.history import sum_up
from kit.stages.packing import packed_size
from kit.stages.photos import read_photos
from kit.stages.prune import bytes_allowed, narrowed, prune, target_of
from kit.stages.rehearsal import as_if_trained
from kit.stages.student import check_beginning, check_terms, distil, factorised, finetune, train_factorised, train_quantized
from kit.stages.teacher import get_teachers
from kit.takeover import take_over
from kit.train.budget import Budget
from kit.world import joined

LEANER = 1.25  # times the limit of bytes that a new student may take: HW7's trained one has a seventh less entropy than its bits


def run(
    config: Config,
    data: Path,
    out: Path,
    *,
    cache: Path,
    budget: Budget,
    teacher_files: Sequence[Path] = (),
    begin: Path | None = None,
    submissions: Path | None = None,
    attached: Sequence[Path] = (),
    least_step: int = 0,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """One session of a run. The same call again goes on where it stopped.

    Args:
        data: the data set lies in or below this folder.
        cache: where decoded photos are kept.
        teacher_files: weights, a student.kit, a run's folder or its checkpoint, each; several teach together. None: what lies beside the
            photos, or a teacher that the run trains.
        begin: a run's folder, a checkpoint or a student.kit, whose weights stand for the distilled student's. None: it is trained here.
        submissions: where a whole submission is filed with its provenance, None for nowhere.
        attached: folders that are searched for an earlier output of this run; the furthest wins, `out` included.
        least_step: refuse to begin from less than this step, counted over all stages.
        watch: asked after each epoch, with the stage and its history; a reason that it gives suspends the run there.
    Returns:
        run.json's content; its `state` is "done" or "suspended".
    Raises:
        KitError: a refusal, or a budget that was over before there was anything to hand in.
    """
    with budget.catching_signals(), joined() as world, alone(out) if world.first else nullcontext():
        budget.world = world
        log = Log(out / "log.txt", silent=not world.first)
        check_recipe(config, log, teacher_files, begin)
        world.lead(lambda: take_over(config, attached, out, log))
        session = world.in_turn(lambda: open_session(config, out, budget, log, least_step, world))
        session.watch, material = watch, None
        with session.account(), shortages_named():
            try:
                material = read_photos(session, data, cache)
                classes = len(material.dataset.classes)
                refuse_over_limit(config, new_student(config, classes), classes)
                teachers = get_teachers(session, material, data, teacher_files)
                student = distil(session, material, teachers, begin)
                for step in steps_of(config.prune):
                    student = finetune(session, material, prune(session, material, student, step), teachers, step.finetune)
                if config.lowrank:
                    student = train_factorised(session, material, student, teachers)
                finished = {"training": student}
                if config.quantize.train_epochs:
                    finished["qat"] = train_quantized(session, material, student, teachers)
                world.lead(lambda: submit(session, material, quantize(session, material, finished), "done", submissions))
            except Suspended as pause:
                session.suspended = str(pause)
                world.lead(partial(hand_in_best_so_far, session, material, pause, submissions))
            world.lead(partial(sum_up, session, material))
        world.lead(partial(report, session, material))
    return session.record


def check_recipe(config: Config, log: Log, teacher_files: Sequence[Path] = (), begin: Path | None = None) -> None:
    """What can't be handed in, built, packed, or trained by these teachers is refused before anything is spent on it."""
    rules = competition(config.competition)
    classes = len(rules.classes) if rules.classes else 2  # of an "any" folder: at least
    student = new_student(config, classes)
    refuse_unfit(config, student)
    refuse_over_limit(config, student, classes)
    refuse_too_many_bytes(config, student, classes, log)
    for mark in check_limits(config.competition, count_parameters(student)) if config.limit else []:
        log(f"note: {mark} (kept as published; its own limit is {config.limit}'s)")
    teachers = [read_teacher(file_of(source), config, rules.classes) for source in teacher_files]
    check_terms(config, teachers[0] if teachers else build_teacher(config.teacher.arch, classes))
    if begin:
        check_beginning(begin, config)


def new_student(config: Config, classes: int) -> nn.Module:
    return build_student(config.student.name, widths_for(config.student, classes), classes)


def refuse_over_limit(config: Config, student: nn.Module, classes: int) -> None:
    """What can't be handed in as it is, or as its plan is to prune and thin it."""
    name = config.student.name
    pruned = as_if_pruned(config, student, classes) if config.prune else student
    if config.lowrank:  # whether its layers can be as thin as that
        refuse_unusable(name, factorised(pruned, config), config.data.image_size)
    elif not config.prune and (broken := check_limits(config.whose_limit, count_parameters(student))):
        remedy = "Choose a smaller one" if is_library(name) else "Set student.parameters, smaller student.widths, or prune"
        raise KitError(f"The student {name!r} can't be handed in: {'; '.join(broken)}. {remedy}.")


def as_if_pruned(config: Config, student: nn.Module, classes: int) -> nn.Module:
    """As the last step of pruning may leave it, for its shapes.

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
