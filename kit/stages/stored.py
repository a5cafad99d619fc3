"""What answers for the teacher where it is not asked about each view: answers that were stored, or fixed logits."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from kit import predict
from kit.config.schema import Train
from kit.config.terms import FixedKD
from kit.console import counted
from kit.distill.align import LOGITS, shapes
from kit.distill.objective import tapped
from kit.distill.panel import Panel
from kit.distill.replay import Fixed, Replay
from kit.session import Session
from kit.stages.photos import Material, make_order


@contextmanager
def stored_answers(session: Session, material: Material, stage: str, plan: Train, panel: Panel) -> Iterator[Replay | Fixed | None]:
    """What the recipe's terms are answered by in the teacher's place; None where it is asked itself, about every view."""
    if any(isinstance(term, FixedKD) for term in session.config.distill):
        yield fixed_labels(session, material, stage, plan, panel)
    elif store := session.config.teacher.store:
        with replayed(session, material, stage, plan, panel, store) as replay:
            yield replay
    else:
        yield None


def fixed_labels(session: Session, material: Material, stage: str, plan: Train, panel: Panel) -> Fixed:
    tick = partial(session.budget.insist, "the teacher had seen the training photos", *session.owed(stage))
    with session.budget.timed("teacher"):
        logits = predict.logits(panel, material.training, session.config.data, tick=tick)
    return Fixed(logits, make_order(session, material, stage, plan, session.config.data.augment).mine)


@contextmanager
def replayed(session: Session, material: Material, stage: str, plan: Train, panel: Panel, store: str) -> Iterator[Replay]:
    """The teacher's stored answers: a file beside the decoded photos, named for all that it depends on.

    Bits depend on the device, its precision and threads, and on how a batch is shared by processes, so these are in the name too.
    """
    config = session.config
    order = make_order(session, material, stage, plan, config.data.augment)
    mine = range(order.batch_size)[order.share]
    maps = shapes(panel, tapped(config.distill, "teacher"), config.data.image_size, panel.first)
    depends = {
        "teacher": session.identity["teacher"],
        "photos": session.identity["photos"],
        "flip": config.teacher.flip,
        "maps": list(maps),
        "data": config.settled().data.model_dump(mode="json", exclude={"workers"}),
        "order": [order.seed, order.batch_size, mine.start, mine.stop, plan.balanced, plan.final_fit],
        "device": session.device.choices(),
    }
    if panel.side:  # a name of before stays
        depends["side"] = panel.side
    name = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    file = material.cache / f"teacher-{name}.{store}"
    answers = {LOGITS: (len(mine), len(material.dataset.classes))} | {name: (len(mine), *shape) for name, shape in maps.items()}
    replay = Replay(file, answers, store, plan.epochs * order.steps_per_epoch, session.log)
    try:
        yield replay
    finally:
        replay.close()
        steps = counted(replay.replayed, "step")
        session.log(f"{stage}: the teacher's answers of {steps} were read from {file}, of {replay.computed:,} computed")
