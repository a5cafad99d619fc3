"""The page at a session's end: what is not known yet about the stages' students is looked up, then `report.html` is written.

A session owes its page last of all: checkpoints, CSV and run.json are written by then, and whatever goes wrong here is said in a line.
"""

import io
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from kit import predict
from kit.answers import Answers, answers_to
from kit.config.stages import kind_of, up_to_pruning
from kit.data.cache import Photos
from kit.files import make_folder, write_durably
from kit.names import ANSWERS, REPORT
from kit.report.run import Run, read_run
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.provisional import so_far
from kit.train.budget import EXIT, PAGE, Budget

THUMBNAIL = 112  # px


def report(session: Session, material: Material | None) -> None:
    """Write the page if there is time for it; that it could not be written is no reason for a run to fail."""
    budget, place = session.budget, session.out / REPORT
    if material is None or not (any(session.histories.values()) or "submission" in session.record):
        return
    if not room_for(budget):
        session.log(f"{place} is left out, there is no time for it: `kit report {shlex.quote(str(session.out))}` writes it")
        return
    try:
        look_at_students(session, material)
        with budget.timed("page"):
            write_page(read_run(session.out))
    except Exception as error:  # a page can break in any way it likes
        session.log(f"{place} could not be written ({type(error).__name__}: {error}). The submission does not need it")
        return
    session.record["measured"]["page"] = round(budget.longest["page"], 3)
    session.write()
    session.log(f"{place}: the run on a page")


def room_for(budget: Budget, *kinds: str) -> bool:
    """Whether there is time for these, and for the page after them."""
    return budget.left() > EXIT + budget.longest.get("page", PAGE) + sum(budget.longest.get(kind, 0) for kind in kinds)


def write_page(run: Run, place: Path | None = None) -> Path:
    """A run's page, beside the files that it is made from unless it is wanted elsewhere."""
    from kit.report.page import page  # here: jinja2 takes its time to import, and a run has better to do first

    place = place or run.out / REPORT
    make_folder(place.parent)
    write_durably(place, page(run).encode())
    return place


def look_at_students(session: Session, material: Material) -> None:
    """Answers of the stages' best students, each asked once and while there is time, and thumbnails of its best and worst."""
    photos, classes = material.validation, material.dataset.classes
    answers = answers_to(session.out / ANSWERS, photos, classes)
    for stage in up_to_pruning(session.config.prune):  # qat's are the packed one's
        files = session.checkpoints(stage).files()
        evaluation = f"{stage} evaluate" if kind_of(stage) == "finetune" else "distil evaluate"
        if not room_for(session.budget, evaluation):
            session.log(f"no time to ask the student of {stage} for the page")
            break
        if not files or answers.of.get(stage) == files[-1].digest or (found := so_far(session, stage)) is None:
            continue
        student = found.student(session.config).to(session.device.device)
        answers.logits[stage] = predict.logits(student, photos, session.config.data).numpy()
        answers.of[stage] = files[-1].digest
    answers.thumbnails = thumbnails(answers, photos)
    answers.save(session.out / ANSWERS)


def thumbnails(answers: Answers, photos: Photos) -> dict[int, bytes]:
    if "quantize" not in answers.logits:
        return {}
    from kit.report.scores import surest, worst  # here: as above

    shown = [row for choose in (surest, worst) for row in choose(answers.logits["quantize"], answers.labels)]
    return {row: thumbnail(photos.pixels[row], *photos.sizes[row]) for row in shown}


def thumbnail(square: np.ndarray, width: int, height: int) -> bytes:
    """What a cached square holds of its photo, in the photo's own shape, as JPEG."""
    side, share = len(square), THUMBNAIL / max(width, height)
    buffer, size = io.BytesIO(), (max(round(width * share), 1), max(round(height * share), 1))
    stored = np.ascontiguousarray(square[: min(height, side), : min(width, side)])  # the rest repeats the last row and column
    Image.fromarray(stored).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
