"""Pruning: the same student with fewer channels, its batch norms measured anew."""

from typing import Any

from torch import nn

from kit import predict
from kit.compress.prune import slim
from kit.compress.recalibrate import recalibrate
from kit.config.competitions import competition
from kit.models.students import build_student, count_parameters
from kit.session import Session
from kit.stages.photos import Material, make_order, make_views

RECALIBRATION = 20  # batches; at 128 photos each the averages are within a percent of an epoch's


def prune(session: Session, material: Material, student: nn.Module) -> nn.Module:
    """A share of the student's parameters, and never more than the limit."""
    config, checkpoints = session.config, session.checkpoints("prune")
    with session.stage("prune"):
        if not checkpoints.result():
            session.budget.insist("pruning", "prune", "hand in")
            session.world.lead(lambda: checkpoints.finish(0, choose(session, material, student)))
        done = checkpoints.result()
        slimmer = build_student(config.student.name, done["widths"], len(material.dataset.classes))
        slimmer.load_state_dict(done["best"]["weights"])
    return slimmer


def choose(session: Session, material: Material, student: nn.Module) -> dict[str, Any]:
    """The stage's result: widths, weights and accuracy of the pruned student."""
    config = session.config
    before, limit = count_parameters(student), competition(config.limit or config.competition).max_parameters
    with session.budget.timed("prune"):
        keep = int(before * config.prune.keep)
        slimmer, widths = cut(session, material, student, min(keep, limit or keep))
        scores = {} if config.train.final_fit else predict.scores(slimmer, material.validation, config.data)
        accuracy = scores.get("accuracy")
    after = count_parameters(slimmer)
    session.log(f"prune: {before:,} → {after:,} parameters, widths {list(widths)}, {predict.say(scores)}")
    session.note("prune", accuracy=accuracy, parameters=after, widths=widths)
    return {"widths": widths, "best": {"accuracy": accuracy, "epoch": 0, "weights": slimmer.state_dict()}}


def cut(session: Session, material: Material, student: nn.Module, limit: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A copy of at most `limit` parameters, in evaluation mode on the device, and its widths."""
    config = session.config
    slimmer, widths = slim(student, config.student.name, len(material.dataset.classes), config.data.image_size, limit)
    order = make_order(session, material, config.train)
    batches = make_views(session, material, order, config.data.augment)
    recalibrate(slimmer.to(session.device.device), batches, min(RECALIBRATION, order.steps_per_epoch))
    return slimmer, widths
