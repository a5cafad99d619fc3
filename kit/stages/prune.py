"""Pruning: the same student with fewer channels, its batch norms measured anew; at once or step by step."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from kit import predict
from kit.compress.prune import Target, slim
from kit.compress.recalibrate import BATCHES, begin_to_measure, recalibrate
from kit.config.competitions import check_limits, competition
from kit.config.schema import Config, Prune
from kit.config.stages import Step, steps_of
from kit.data.loader import Batches
from kit.models.blocks import Select
from kit.models.cost import count_macs
from kit.models.students import FrozenStem, build_student, count_parameters, widths_of
from kit.rng import derive
from kit.session import Session
from kit.stages.packing import packed_size
from kit.stages.photos import Material, make_order, make_views

ROOM = 0.02  # of a target of bytes: weights that are fine-tuned and rounded by photos have other codes, and were seen to take 0.1 % more


def prune(session: Session, material: Material, student: nn.Module, step: Step) -> nn.Module:
    """A step's share of the student, and at the end never more than the limit. `student`: of the step before."""
    config, checkpoints = session.config, session.checkpoints(step.prune)
    with session.stage(step.prune):
        if not checkpoints.result():
            session.budget.insist("pruning", "prune", "hand in")
            session.world.lead(lambda: checkpoints.finish(0, choose(session, material, student, step)))
        done = checkpoints.finished()
        slimmer = build_student(config.student.name, done["widths"], len(material.dataset.classes))
        slimmer.load_state_dict(done["best"]["weights"])
        session.note(step.prune, accuracy=done["best"]["accuracy"], parameters=count_parameters(slimmer), widths=done["widths"])
    return slimmer


def choose(session: Session, material: Material, student: nn.Module, step: Step) -> dict[str, Any]:
    """The stage's result: widths, weights and accuracy of the pruned student."""
    config, whole = session.config, distilled(session, student, material)
    before = count_parameters(student)
    with session.budget.timed("prune"):
        target = target_of(config, whole, material.dataset.classes, step.share)
        most = bytes_allowed(config) if step.share == 1 else None
        slimmer, widths = cut(session, material, whole if config.prune and config.prune.restart else student, target, most)
        scores = {} if config.train.final_fit else predict.scores(slimmer, material.validation, config.data)
        accuracy = scores.get("accuracy")
    after = count_parameters(slimmer)
    session.log(f"{step.prune}: {before:,} → {after:,} parameters, widths {list(widths)}, {predict.say(scores)}")
    return {"widths": widths, "best": {"accuracy": accuracy, "epoch": 0, "weights": slimmer.state_dict()}}


def distilled(session: Session, student: nn.Module, material: Material) -> nn.Module:
    """The student before the first step, of which the steps' shares are."""
    if len(steps_of(session.config.prune)) == 1:
        return student
    done = session.checkpoints("distil").finished()
    whole = build_student(session.config.student.name, done["widths"], len(material.dataset.classes))
    whole.load_state_dict(done["best"]["weights"])
    return whole.to(session.device.device)


def target_of(config: Config, whole: nn.Module, classes: tuple[str, ...], share: float = 1.0) -> Target:
    """What a step may leave. Each step takes the same ratio: after `share` of the way before · (target / before)^share is left."""
    how = config.prune or Prune()

    def on_the_way(before: int, target: int) -> int:
        return target if share == 1 else int(before * (min(target, before) / before) ** share)

    before, limit = count_parameters(whole), competition(config.whose_limit).max_parameters
    asked = how.parameters or (None if how.macs or how.bytes else int(before * how.keep))
    parameters = min(filter(None, (limit, asked)), default=None)
    return Target(
        parameters=parameters and on_the_way(before, parameters),
        macs=how.macs and on_the_way(count_macs(whole, config.data.image_size).total(), how.macs),
        bytes=how.bytes and on_the_way(packed_size(config, whole, classes), with_room(how.bytes)),
        fill=bool(how.parameters or how.macs),
    )


def with_room(size: int) -> int:
    """Bytes that pruning may leave, so that what is packed at the end is within `size`."""
    return int(size * (1 - ROOM))


def bytes_allowed(config: Config) -> int | None:
    """What the limit lets pruning leave of student.kit; None where it names no bytes, or layers are made thinner after it."""
    most = competition(config.whose_limit).max_bytes
    return with_room(most) if most and not config.lowrank else None


def waits_for_pruning(config: Config, student: nn.Module, classes: tuple[str, ...]) -> bool:
    """Whether a student is over the limit, of bytes where its plan will prune it within them; what isn't pruned ends as large as it is."""
    size = packed_size(config, student, classes) if config.prune and bytes_allowed(config) else None
    return bool(check_limits(config.whose_limit, count_parameters(student), size))


def cut(
    session: Session, material: Material, student: nn.Module, target: Target, most: int | None = None, trained_later: bool = True
) -> tuple[nn.Module, tuple[int, ...]]:
    """A copy that keeps the target, in evaluation mode on the device, and its widths.

    Args:
        most: bytes of the packed copy, which is cut again where it has more.
        trained_later: only then are its weights new where prune.scratch asks for that.
    """
    config, classes = session.config, material.dataset.classes
    how, augment = config.prune or Prune(), config.data.augment
    order = make_order(session, material, "distil", config.train, augment)
    batches, steps = make_views(session, material, order, augment), min(BATCHES, order.steps_per_epoch)
    begin_to_measure(student.to(session.device.device), batches, steps)
    slimmer, widths = narrowed(config, student, target, classes, most, batches)
    if how.scratch and trained_later:
        slimmer = with_new_weights(slimmer, config.student.name, len(classes), config.train.seed)
    recalibrate(slimmer.to(session.device.device), batches, steps)
    return slimmer, widths


def narrowed(
    config: Config, student: nn.Module, target: Target, classes: tuple[str, ...], most: int | None = None, batches: Batches | None = None
) -> tuple[nn.Module, tuple[int, ...]]:
    """A copy that keeps the target and has at most `most` bytes when it is packed, its batch norms as they were, and its widths. Without
    batches, which "taylor" asks for, channels are ranked by their weights: as many may go.

    Raises:
        KitError: there is none, with the smallest that there is.
    """
    how, size_of = config.prune or Prune(), lambda student: packed_size(config, student, classes)
    if batches is None and how.criterion == "taylor":
        how = how.model_copy(update={"criterion": "magnitude"})
    whose = config.student.name, len(classes), config.data.image_size
    within = partial(slim, student, *whose, how, size_of=size_of, seed=config.train.seed, batches=batches)
    slimmer, widths = within(target)
    if most and size_of(slimmer) > most:
        slimmer, widths = within(replace(target, bytes=most))
    return slimmer, widths


def with_new_weights(slimmer: nn.Module, name: str, classes: int, seed: int) -> nn.Module:
    """The same architecture as it would be before training. What never trains is no weight of its own: it stays."""
    torch.manual_seed(derive(seed, "scratch"))
    fresh = build_student(name, widths_of(slimmer), classes)
    for new, old in zip(fresh.modules(), slimmer.modules(), strict=True):
        if isinstance(new, (FrozenStem, Select)):
            new.load_state_dict(old.state_dict())
    return fresh
