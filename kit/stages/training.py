"""A plan of epochs over the run's photos, for whichever network and loss a stage brings."""

from typing import Any

from torch import nn

from kit import predict
from kit.config.schema import Augment, Train
from kit.data.loader import Order
from kit.session import Session
from kit.stages.photos import Material, make_batches
from kit.train.loop import Loss, fit


def train(
    session: Session,
    material: Material,
    stage: str,
    network: nn.Module,
    loss: Loss,
    plan: Train,
    augment: Augment,
    adapters: nn.Module | None = None,
) -> dict[str, Any]:
    """The best epoch of a stage's plan, by validation accuracy."""
    config = session.config
    photos = len(material.training) if material.training is not None else len(material.dataset.training)
    order = Order(photos, plan.batch_size, plan.seed)
    left_out = photos - order.steps_per_epoch * order.batch_size
    session.log(
        f"{stage}: {plan.epochs} epochs of {order.steps_per_epoch} steps of {order.batch_size} photos; each epoch leaves {left_out} out"
    )
    return fit(
        network,
        loss,
        make_batches(session, material, order, augment),
        lambda model: predict.accuracy(model, material.validation, config.data),
        steps_per_epoch=order.steps_per_epoch,
        train=plan,
        checkpoints=session.checkpoints(stage),
        budget=session.budget,
        device=session.device,
        log=session.log,
        on_epoch=lambda history: session.write_metrics(stage, history),
        adapters=adapters,
    )
