"""How a run packs a student: rounded by training photos, then written."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from kit.compress.calibrate import PHOTOS, round_by_photos
from kit.compress.lsq import Stepped
from kit.compress.pack import pack
from kit.config.schema import Config
from kit.data.loader import Batches
from kit.data.order import Order
from kit.models.students import widths_of
from kit.names import STUDENT
from kit.session import Session
from kit.stages.photos import Material, make_views

Feed = tuple[Batches, Order, torch.device]  # training batches and where they are

AT_ONCE = 16  # photos, of whose maps the same places are looked at


def rounded(session: Session, material: Material, student: nn.Module) -> nn.Module:
    """The student as `pack_student` is to write it."""

    def feed() -> Feed:
        order = Order(material.photos, session.config.train.batch_size, session.config.train.seed)  # whole batches: one process packs
        return make_views(session, material, order, session.config.data.augment), order, session.device.device

    return rounded_by(student, session.config, feed)


def rounded_by(student: nn.Module, config: Config, feed: Callable[[], Feed]) -> nn.Module:
    """A copy rounded by the first training batches, views as in training; the student itself where `config.pack` says not to, and where
    its weights have been trained on a grid.

    Args:
        feed: called only where photos are looked at.
    """
    wanted = PHOTOS if config.pack.calibration is None else config.pack.calibration
    if not (wanted and config.pack.even) or any(isinstance(module, Stepped) for module in student.modules()):
        return student
    batches, order, device = feed()
    steps = range(min(math.ceil(wanted / order.batch_size), order.steps_per_epoch))
    wholes = (batches(step)[0][: wanted - step * order.batch_size] for step in steps)  # of the last one as many as are still wanted
    images = (part for whole in wholes for part in whole.split(AT_ONCE))
    return round_by_photos(student, config.pack, images, device)


def pack_student(file: Path, config: Config, student: nn.Module, classes: tuple[str, ...]) -> int:
    """Write a student as a run does; returns the file's size in bytes."""
    return pack(file, student, config.settled(), widths_of(student), classes, {"recipe": config.recipe})


def packed_size(config: Config, student: nn.Module, classes: tuple[str, ...]) -> int:
    """Bytes of student.kit with this student in it."""
    with tempfile.TemporaryDirectory(prefix="kit-size-") as folder:
        return pack_student(Path(folder) / STUDENT, config, student, classes)
