"""The story of a run: photos in, a checked submission out.

    photos → teacher → distil → prune → finetune → quantize → submit

A stage is skipped when its result is there and resumed when it is half there. The prediction is made with the network that was read
back from the packed file, the thing that would be handed in.
"""

from pathlib import Path
from typing import Any

from kit.config.competitions import check_limits
from kit.config.schema import Config
from kit.device import choose_device
from kit.errors import KitError, Suspended
from kit.models.students import build_student, count_parameters
from kit.session import Session, open_session
from kit.stages.finish import hand_in_best_so_far, quantize, submit
from kit.stages.photos import read_photos
from kit.stages.student import distil, finetune, prune
from kit.stages.teacher import get_teacher
from kit.train.budget import Budget


def run(
    config: Config,
    data: Path,
    out: Path,
    *,
    cache: Path,
    budget: Budget,
    teacher_file: Path | None = None,
    submissions: Path | None = None,
) -> dict[str, Any]:
    """One session of a run. The same call again goes on where it stopped.

    Args:
        data: the data set lies in or below this folder.
        cache: where decoded photos are kept.
        submissions: where a whole submission is filed with its provenance, None for nowhere.
    Returns:
        run.json's content; its `state` is "done" or "suspended".
    Raises:
        KitError: a refusal, or a budget that was over before there was anything to hand in.
    """
    session = open_session(config, out, budget, choose_device())
    material = None
    with budget.catching_signals(), session.account():
        check_recipe(session)
        try:
            material = read_photos(session, data, cache)
            teacher = get_teacher(session, material, data, teacher_file)
            student = distil(session, material, teacher)
            if config.prune:
                student = prune(session, material, student)
                student = finetune(session, material, student, teacher)
            packed = quantize(session, material, student)
            submit(session, material, packed, "done", submissions)
        except Suspended as pause:
            session.suspended = str(pause)
            session.log(f"suspended: {pause}; the same command goes on from here")
            hand_in_best_so_far(session, material, pause, submissions)
    return session.record


def check_recipe(session: Session) -> None:
    """The limit is a gate: what can't be handed in is refused before anything is spent on it."""
    config = session.config
    session.log(f"{config.recipe} {config.digest()} on {session.device.says}")
    classes = len(session.rules.classes) if session.rules.classes else 2  # an "any" folder has no limit that could be broken
    parameters = count_parameters(build_student(config.student.name, config.student.widths, classes))
    if not config.prune and (broken := check_limits(config.limit or config.competition, parameters)):
        raise KitError(
            f"The student {config.student.name!r} can't be handed in: {'; '.join(broken)}. Set smaller student.widths, or prune."
        )
    for mark in check_limits(config.competition, parameters) if config.limit else []:
        session.log(f"note: {mark} (kept as published; its own limit is {config.limit}'s)")
