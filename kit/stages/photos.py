"""The first stage: find the photos, check them, decode them once; and the batches that training draws from them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.augment.mix import mix
from kit.augment.views import training_views
from kit.augment.warp import normalise
from kit.config.schema import Augment, Data, Train
from kit.data.cache import Photos, load_photos, scan
from kit.data.layout import find_dataset
from kit.data.loader import Batches, CachedBatches, DecodingBatches
from kit.data.order import Order
from kit.data.splits import Dataset, counts_of, subset
from kit.errors import KitError
from kit.processes import cores
from kit.rng import derive
from kit.session import Session


@dataclass(frozen=True)
class Material:
    """What a run works on. training: the decoded photos, or None when JPEGs are decoded anew each epoch. cache: where they are kept."""

    dataset: Dataset
    training: Photos | None
    validation: Photos
    evaluation: Photos
    cache: Path

    @property
    def photos(self) -> int:
        """How many there are to train on."""
        return len(self.labels)

    def photos_of(self, stage: str) -> int:
        """How many of those a stage trains on, the first ones: a teacher learns from labels alone, and photos without one come last."""
        return int((self.labels >= 0).sum()) if stage == "teacher" else self.photos

    @property
    def labels(self) -> np.ndarray:
        """int64 [photos] of those, -1 for none."""
        return self.training.labels if self.training is not None else self.dataset.training.labels

    @property
    def per_class(self) -> np.ndarray:
        """How many of those each class has, int64 [classes]: not what the folders have, where photos that don't decode are left out."""
        return counts_of(self.labels, len(self.dataset.classes))


def read_photos(session: Session, data: Path, cache: Path) -> Material:
    """Find the data set, check it, decode it once."""
    config, seed = session.config.data, session.config.train.seed
    with session.stage("photos"), session.budget.timed("photos"):
        whole = find_dataset(data, session.rules.classes, config.holdout, seed)
        dataset = with_more_training(subset(whole, config.subset, seed), config.unlabelled, session.config.train.final_fit)
        session.log(f"data set {dataset.root}, {len(dataset.classes)} classes\n{dataset.counts()}")
        session.record["partial"] = bool(session.config.tried_with)
        how: dict[str, Any] = {
            "workers": config.workers,
            "skip_bad": config.skip_bad,
            "tick": partial(session.budget.insist, "the photos were read", *session.owed()),
        }
        if config.feed == "decode":
            training, digest = scan(dataset.training, session.log, **how)
            dataset = replace(dataset, training=training)
            photos = load_photos(dataset.splits[1:], config.cache_side, cache, session.log, **how)
        else:
            photos = load_photos(dataset.splits, config.cache_side, cache, session.log, **how)
            digest = photos["training"].digest
        told = [dataset.classes, *(split.labels.tolist() for split in dataset.splits)]  # a photo that changed its class changed
        labels = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        digests = [digest, photos["validation"].digest, photos["evaluation"].digest, labels]
        session.remember("photos", "-".join(d[:8] for d in digests), f"the names or bytes of the photos below {data}")
        session.record["classes"] = list(dataset.classes)
    return Material(dataset, photos.get("training"), photos["validation"], photos["evaluation"], cache)


def cached_batches(photos: Photos, order: Order, data: Data, augment: Augment, device: torch.device) -> CachedBatches:
    """Decoded photos, warped on the device."""

    def views(pixels: Tensor, sizes: Tensor, generator: torch.Generator, share: slice) -> Tensor:
        return training_views(pixels, sizes, generator, data, augment, share)

    return CachedBatches(photos, order, views, device, data.feed, data.workers)


def with_more_training(dataset: Dataset, unlabelled: bool, final_fit: bool) -> Dataset:
    """The data set whose training split has for a final fit those of validation too, and at its end the unlabelled ones.

    Raises:
        KitError: there is no unlabelled split.
    """
    training = dataset.training
    if unlabelled and dataset.unlabelled is None:
        raise KitError(f"{dataset.root} has no folder unlabelled/ or training/unlabeled/: add it, or set data.unlabelled=false.")
    if final_fit:
        training = training.joined(dataset.validation)
    return replace(dataset, training=training.joined(dataset.unlabelled) if unlabelled and dataset.unlabelled else training)


def make_order(session: Session, material: Material, stage: str, plan: Train, augment: Augment) -> Order:
    photos = material.photos_of(stage)
    balance = material.labels[:photos] if plan.balanced else None
    return Order(photos, plan.batch_size, plan.seed, session.world, balance, pairs=augment.mixes)


def make_views(session: Session, material: Material, order: Order, augment: Augment) -> CachedBatches | DecodingBatches:
    """Cached photos warped on the device, or JPEGs decoded by worker processes: the recipe says which."""
    data, device = session.config.data, session.device.device
    if material.training is not None:
        return cached_batches(material.training, order, data, augment, device)

    from kit.augment.reference import SeededPipeline  # here: albumentations takes half a second to import

    workers = data.workers or max(1, cores() // session.world.size)
    return DecodingBatches(material.dataset.training, order, SeededPipeline(data, augment), to_input(data), device, workers)


def to_input(data: Data) -> Callable[[Tensor], Tensor]:
    """uint8 views [M, H, H, 3] to the networks' input."""
    return lambda views: normalise(views.permute(0, 3, 1, 2).float(), data.mean, data.std)


def mixing(views: Batches, order: Order, augment: Augment, classes: int) -> Batches:
    """The same batches, mixed in pairs where the recipe says so."""

    def mixed(step: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng(derive(order.seed, "mix", step))
        return mix(*views(step), classes, augment, draw, order.batch_size, order.share)

    return mixed if augment.mixes else views
