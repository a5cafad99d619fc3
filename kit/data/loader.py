"""Batches as a function of the step: `batch(step)` is the same for any number of workers and after any number of kills.

The order is a function of (seed, epoch), a view of (seed, step, position in the batch). No iterator's state outlives a step. Two
ways give batches: `CachedBatches` warps a decoded cache on the device; `DecodingBatches` reads and augments JPEGs anew in worker
processes, for data sets that no disk holds decoded.
"""

import warnings
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kit.data.cache import Photos
from kit.data.decode import die_with_parent, read_rgb, signals_held
from kit.data.layout import Split
from kit.rng import derive, generator
from kit.world import World

# (uint8 [M, S, S, 3], sizes [B, 2], generator, share of the batch) → normalised float32 [M, 3, H, W]
AugmentBatch = Callable[[Tensor, Tensor, torch.Generator, slice], Tensor]
# (uint8 RGB [H, W, 3], seed) → uint8 [image_size, image_size, 3]
AugmentPhoto = Callable[[np.ndarray, int], np.ndarray]


class Order:
    """Which photos make up a step. The last, smaller batch of an epoch is dropped: nine photos are too few for batch norm.

    The batches are the same for any number of processes; `share` is the part of each that this one is given. With `balance`, int64
    [photos] of labels, an epoch shows every class as often as any other.
    """

    def __init__(self, photos: int, batch_size: int, seed: int, world: World | None = None, balance: np.ndarray | None = None):
        self.photos, self.batch_size, self.seed, self.balance = photos, min(batch_size, photos), seed, balance
        self.share = (world or World()).share(self.batch_size)
        self.steps_per_epoch = photos // self.batch_size

    def rows(self, step: int) -> Tensor:
        """int64 [batch_size]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        draw = generator(self.seed, "order", epoch)
        shuffled = torch.randperm(self.photos, generator=draw) if self.balance is None else balanced(self.balance, draw)
        return shuffled[place * self.batch_size : (place + 1) * self.batch_size]


def balanced(labels: np.ndarray, draw: torch.Generator) -> Tensor:
    """As many rows as there are labels, int64 [N], shuffled: each class equally often to one, its photos in turn, whole rounds of them
    before any comes again. Unlabelled photos (-1) come once each."""
    known, rows = np.unique(labels[labels >= 0]), [torch.from_numpy(np.flatnonzero(labels < 0))]
    each, left = divmod(int((labels >= 0).sum()), len(known))
    luckier = torch.randperm(len(known), generator=draw)[:left].tolist()
    for place, label in enumerate(known):
        own, wanted = torch.from_numpy(np.flatnonzero(labels == label)), each + (place in luckier)
        rounds = [own[torch.randperm(len(own), generator=draw)] for _ in range(-(-wanted // len(own)))]
        rows.append(torch.cat(rounds)[:wanted])
    return torch.cat(rows)[torch.randperm(len(labels), generator=draw)]


class CachedBatches:
    """The cache as one tensor: on the device where it fits into half of the free memory, else on the host."""

    def __init__(self, photos: Photos, order: Order, augment: AugmentBatch, device: torch.device):
        if photos.labels is None:
            raise ValueError("training photos need labels")
        self.order, self.augment, self.device = order, augment, device
        self.resident = device.type == "cuda" and photos.pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.pixels = as_tensor(photos.pixels)
        if self.resident:
            self.pixels = self.pixels.to(device)
        self.sizes, self.labels = torch.from_numpy(photos.sizes), torch.from_numpy(photos.labels)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalised float32 [M, 3, H, W] and labels int64 [M], on the device: this process's share."""
        whole = self.order.rows(step)
        rows = whole[self.order.share]
        images = self.pixels[rows.to(self.pixels.device)].to(self.device)
        views = self.augment(images, self.sizes[whole], generator(self.order.seed, "augment", step), self.order.share)
        return views, self.labels[rows].to(self.device)


class DecodingBatches:
    """JPEGs decoded and augmented by worker processes, prefetched from whatever step is asked for first."""

    def __init__(
        self, split: Split, order: Order, augment: AugmentPhoto, normalise: Callable[[Tensor], Tensor], device: torch.device, workers: int
    ):
        self.source = Decoder(split, order, augment)
        self.order, self.normalise, self.device, self.workers = order, normalise, device, workers
        self.expected, self.stream = -1, iter(())

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if step != self.expected:
            self.stream = self.start(step)
        self.expected = step + 1
        images, labels = next(self.stream)
        return self.normalise(images.to(self.device, non_blocking=True)), labels.to(self.device)

    def start(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            self.source,
            batch_size=None,
            sampler=range(step, 2**62),  # lazily: the loop says when it is enough
            num_workers=self.workers,
            multiprocessing_context=get_context("spawn") if self.workers else None,
            worker_init_fn=start_worker if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        with signals_held():
            return iter(loader)


class Decoder(Dataset):
    """Item `step` is the whole batch of that step: a worker makes one alone, so workers change nothing."""

    def __init__(self, split: Split, order: Order, augment: AugmentPhoto):
        self.split, self.order, self.augment = split, order, augment

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """uint8 [M, H, W, 3], int64 [M]: this process's share, each photo's view seeded by its place in the whole batch."""
        places = range(self.order.batch_size)[self.order.share]
        rows = self.order.rows(step)[self.order.share]
        seed = self.order.seed
        views = [
            self.augment(np.asarray(read_rgb(self.split.paths[row])), derive(seed, f"view {place}", step))
            for place, row in zip(places, rows.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(views)), torch.from_numpy(self.split.labels[rows.numpy()])


def start_worker(_: int) -> None:
    die_with_parent()


def as_tensor(pixels: np.ndarray) -> Tensor:
    """A tensor over a memory map. torch can't mark memory as read-only and warns; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
