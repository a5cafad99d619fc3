"""The same views by albumentations, one photo at a time: the reference that the tests hold the batched warp against, and the way of
a loader without a cache.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer release

import albumentations as A
import numpy as np

from kit.config.schema import Augment, Data

ANTIALIAS = {"area_for_downscale": "image"}  # cv2's plain bilinear skips pixels when it reduces


def training_pipeline(data: Data, augment: Augment) -> A.Compose:
    """RGB uint8 [H, W, 3] of any size in, uint8 [image_size, image_size, 3] out; not yet normalised."""
    side = data.image_size
    if augment.crop_scale is None:
        crop = [A.SmallestMaxSize(data.resize_side, **ANTIALIAS), A.CenterCrop(side, side)]
    else:
        crop = [A.RandomResizedCrop((side, side), scale=augment.crop_scale, ratio=augment.crop_ratio, **ANTIALIAS)]
    turns = [
        A.Affine(rotate=(-degrees, degrees), fill=0, p=1, interpolation=0) for degrees in (augment.rotate, augment.affine_rotate) if degrees
    ]
    limits = (augment.brightness, augment.contrast, augment.saturation)  # one after the other; a single ColorJitter shuffles them
    ranges = [[(1 - limit, 1 + limit) if i == j else (1, 1) for j in range(3)] for i, limit in enumerate(limits) if limit]
    colour = [A.ColorJitter(*each, (0, 0), p=1) for each in ranges]
    return A.Compose([*crop, A.HorizontalFlip(p=augment.horizontal_flip), A.VerticalFlip(p=augment.vertical_flip), *turns, *colour])


class SeededPipeline:
    """(photo, seed) → view. Built when first used, in the worker that uses it."""

    def __init__(self, data: Data, augment: Augment):
        self.data, self.augment = data, augment
        self.pipeline: A.Compose | None = None

    def __call__(self, photo: np.ndarray, seed: int) -> np.ndarray:
        self.pipeline = self.pipeline or training_pipeline(self.data, self.augment)
        self.pipeline.set_random_seed(seed)
        return self.pipeline(image=photo)["image"]
