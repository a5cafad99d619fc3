"""A plan of epochs over the run's photos, for whichever network and loss a stage brings."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from torch import nn

from kit import predict
from kit.config.schema import Augment, Train
from kit.console import counted
from kit.distill.replay import ByStep
from kit.fuse import Fuse, fused, with_compile_decided
from kit.session import Session
from kit.stages.photos import Material, make_order, make_views, mixing
from kit.train.gradients import Loss
from kit.train.loop import fit
from kit.train.state import Training


def settle(session: Session, material: Material, stage: str, plan: Train) -> tuple[Train, Fuse | None]:
    """A plan that says whether its steps are compiled, and what compiles them: None where they aren't."""
    own = with_compile_decided(plan, material.photos_of(stage), session.config.data.image_size, session.device.device, session.world)
    if plan.compile:
        if not own.compile:
            session.log(f"{stage}: steps are not compiled, since several processes share a batch")
        return own, fused if own.compile else None
    if not own.compile:
        return own, None
    session.log(f"{stage}: steps are compiled, for the plan is long")
    return own, partial(fused, say=lambda why: session.log(f"{stage}: {why}"))


def train(
    session: Session,
    material: Material,
    stage: str,
    network: nn.Module,
    loss: Loss,
    plan: Train,
    augment: Augment,
    adapters: nn.Module | None = None,
    prepare: Callable[[float], Hashable] = lambda progress: None,
    stored: ByStep | None = None,
) -> Training:
    """A stage's plan, carried through or on. prepare: as `fit` takes it. stored: what the loss asks in the teacher's place, on the host,
    and must be told which step's batch that is of."""
    config = session.config
    order = make_order(session, material, stage, plan, augment)
    views = make_views(session, material, order, augment)
    left_out = order.photos - order.steps_per_epoch * order.batch_size
    rest = f"; each epoch leaves {left_out} out" if left_out else ""
    session.log(f"{stage}: {counted(plan.epochs, 'epoch')} of {counted(order.steps_per_epoch, 'step')} of {order.batch_size} photos{rest}")
    session.log(f"{stage}: {views.says}")
    batches = mixing(views, order, augment, len(material.dataset.classes))
    return fit(
        network,
        loss,
        stored.drawn(batches) if stored else batches,
        lambda model: predict.scores(model, material.validation, config.data),
        steps_per_epoch=order.steps_per_epoch,
        train=plan.model_copy(update={"graph": False}) if stored else plan,  # steps that wait for the host can't be recorded
        checkpoints=session.checkpoints(stage),
        budget=session.budget,
        device=session.device,
        log=session.log,
        on_epoch=lambda history, seconds: tell(session, stage, history, seconds),
        adapters=adapters,
        unmixed=views,
        prepare=prepare,
    )


def tell(session: Session, stage: str, history: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    """An epoch is over."""
    session.write_metrics(stage, history, seconds)
    if session.watch and (reason := session.watch(stage, history)):
        session.budget.stop = session.budget.stop or reason
