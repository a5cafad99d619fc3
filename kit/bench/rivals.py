"""What people feed a network with today: torch's DataLoader over torchvision's transforms, as the published run does, or over
albumentations. Photos are decoded and drawn anew, one by one. Worker processes import this module."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from kit.augment.reference import SeededPipeline
from kit.config.schema import Augment, Data
from kit.data.loader import start_worker
from kit.data.splits import Split
from kit.errors import KitError
from kit.processes import signals_held

ENDLESS = 10**9  # photos that a sampler gives: the clock says when it is enough


class Photos(Dataset):
    """view: (file) → uint8 or float views."""

    def __init__(self, split: Split, view: Callable[[Path], Tensor]):
        self.split, self.view = split, view

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.view(self.split.paths[row]), int(self.split.labels[row])


def torchvision_view(data: Data, augment: Augment) -> Callable[[Path], Tensor]:
    """PIL and torchvision's first transforms, as seed 002 writes them."""
    side, colour = data.image_size, (augment.brightness, augment.contrast, augment.saturation)
    if augment.crop_scale is None:
        crop = [transforms.Resize(data.resize_side), transforms.CenterCrop(side)]
    else:
        crop = [transforms.RandomResizedCrop((side, side), scale=augment.crop_scale, ratio=augment.crop_ratio)]
    return FromPIL(
        transforms.Compose(
            [
                *crop,
                transforms.RandomHorizontalFlip(augment.horizontal_flip),
                transforms.RandomVerticalFlip(augment.vertical_flip),
                *([transforms.RandomRotation(augment.rotate)] if augment.rotate else []),
                *([transforms.RandomAffine(augment.affine_rotate)] if augment.affine_rotate else []),
                *([transforms.ColorJitter(*colour)] if any(colour) else []),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )
    )


class FromPIL:
    def __init__(self, transform: transforms.Compose):
        self.transform = transform

    def __call__(self, file: Path) -> Tensor:
        with Image.open(file) as photo:
            return self.transform(photo.convert("RGB"))


class FromCV2:
    """cv2 decodes, albumentations draws; normalised in float32 as albumentations' users do."""

    def __init__(self, data: Data, augment: Augment):
        self.pipeline, self.drawn = SeededPipeline(data, augment), 0
        self.shift = np.array(data.mean, np.float32) * 255
        self.scale = 1 / (np.array(data.std, np.float32) * 255)

    def __call__(self, file: Path) -> Tensor:
        self.drawn += 1
        if (stored := cv2.imread(str(file), cv2.IMREAD_COLOR)) is None:
            raise KitError(f"{file} can't be read by cv2, which this way of feeding needs. Leave it out of the data set.")
        photo = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
        view = (self.pipeline(photo, self.drawn).astype(np.float32) - self.shift) * self.scale
        return torch.from_numpy(view.transpose(2, 0, 1))


@contextmanager
def loading(photos: Dataset, batch_size: int, workers: int, device: torch.device) -> Iterator[Callable[[], Tensor]]:
    """Gives the next batch's images on the device. Workers begin and end with it."""
    loader = DataLoader(
        photos,
        batch_size,
        sampler=RandomSampler(photos, num_samples=ENDLESS),
        num_workers=workers,
        multiprocessing_context=get_context("spawn") if workers else None,
        worker_init_fn=start_worker if workers else None,
        pin_memory=device.type == "cuda",
    )
    with signals_held():
        batches = iter(loader)
    yield lambda: next(batches)[0].to(device, non_blocking=True)


def seed_name(workers: int) -> str:
    return f"seed's loader, {workers} workers"
