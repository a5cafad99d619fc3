"""Batches as a function of the step: `batch(step)` is the same for any number of workers and after any number of kills.

The order is a function of (seed, epoch), a view of (seed, step, position in the batch). No iterator's state outlives a step. Two
ways give batches: `CachedBatches` warps decoded squares on the device, wherever they come from (squares.py); `DecodingBatches` reads
and augments JPEGs anew in worker processes, for data sets that no disk holds decoded.
"""

import os
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.util import Finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kit.data.cache import Photos
from kit.data.decode import read_rgb
from kit.data.order import Order
from kit.data.splits import Split
from kit.data.squares import choose_squares
from kit.device import sent
from kit.errors import KitError
from kit.processes import die_with_parent, signals_held
from kit.rng import derive, generator

Batch = tuple[Tensor, Tensor]  # images, labels
Batches = Callable[[int], Batch]  # by step
# (uint8 [M, S, S, 3], sizes [B, 2], generator, share of the batch) → normalised float32 [M, 3, H, W]
AugmentBatch = Callable[[Tensor, Tensor, torch.Generator, slice], Tensor]
# (uint8 RGB [H, W, 3], seed) → uint8 [image_size, image_size, 3]
AugmentPhoto = Callable[[np.ndarray, int], np.ndarray]

FORKS = get_context("forkserver")  # workers are forked off a process that has loaded torch: spawned, each of every stage's loads it anew
FORKS.set_forkserver_preload(["torch", __name__])  # torch as well: in a bundle the first process does not know yet where the kit is


class CachedBatches:
    """Views of decoded photos. feed: "cache" or "stream", as `choose_squares` takes it. says: which it was, and why.

    On a GPU the next step's views are made on a stream of their own while this step computes.
    """

    def __init__(self, photos: Photos, order: Order, augment: AugmentBatch, device: torch.device, feed: str = "cache", workers: int = 0):
        if not photos.labelled:
            raise ValueError("training photos need labels")
        self.order, self.augment, self.device = order, augment, device
        self.squares, self.says = choose_squares(photos.pixels, order, device, feed, workers)
        self.sizes, self.labels = torch.from_numpy(photos.sizes), torch.from_numpy(photos.labels)
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.coming: dict[int, tuple[Batch, torch.cuda.Event]] = {}

    def __call__(self, step: int) -> Batch:
        """Normalised float32 [M, 3, H, W] and labels int64 [M], on the device: this process's share."""
        if self.side is None:
            return self.make(step)
        batch, made = self.coming.pop(step) if step in self.coming else self.begin(step, self.side)
        self.coming = {step + 1: self.begin(step + 1, self.side)}
        now = torch.cuda.current_stream(self.device)
        now.wait_event(made)
        for tensor in batch:
            tensor.record_stream(now)  # its memory is the side stream's: not to be used again before this step has read it
        return batch

    def begin(self, step: int, side: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(side):
            return self.make(step), side.record_event()

    def make(self, step: int) -> Batch:
        whole, labels = self.order.rows(step), self.labels[self.order.mine(step)]
        views = self.augment(self.squares(step), self.sizes[whole], generator(self.order.seed, "augment", step), self.order.share)
        return views, sent(labels, self.device)


class DecodingBatches:
    """JPEGs decoded and augmented by worker processes, prefetched from whatever step is asked for first."""

    def __init__(
        self, split: Split, order: Order, augment: AugmentPhoto, normalise: Callable[[Tensor], Tensor], device: torch.device, workers: int
    ):
        self.source = Decoder(split, order, augment)
        self.order, self.normalise, self.device, self.workers = order, normalise, device, workers
        self.expected = -1
        self.stream: Iterator[Batch] = iter(())
        self.says = "photos are decoded anew each epoch, as data.feed asks"

    def __call__(self, step: int) -> Batch:
        """Shapes as of `CachedBatches`."""
        if step != self.expected:
            self.stream = self.start(step)
        self.expected = step + 1
        try:
            images, labels = next(self.stream)
        except (ConnectionError, EOFError) as error:  # it was on its way from a worker that was killed: torch looks at none of them then
            raise RuntimeError("DataLoader worker: the connection to it broke") from error
        except KitError as error:  # behind the worker's traceback
            raise KitError(str(error).rpartition(f"{KitError.__name__}: ")[2].strip()) from None
        return self.normalise(images.to(self.device, non_blocking=True)), labels.to(self.device, non_blocking=True)

    def start(self, step: int) -> Iterator[Batch]:
        loader = DataLoader(
            self.source,
            batch_size=None,
            sampler=range(step, 2**62),  # lazily: the loop says when it is enough
            num_workers=self.workers,
            multiprocessing_context=FORKS if self.workers else None,
            worker_init_fn=start_worker if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        with signals_held():
            return iter(loader)


class Decoder(Dataset):
    """Item `step` is the whole batch of that step: a worker makes one alone, so workers change nothing."""

    def __init__(self, split: Split, order: Order, augment: AugmentPhoto):
        self.split, self.order, self.augment = split, order, augment

    def __getitem__(self, step: int) -> Batch:
        """uint8 [M, H, W, 3], int64 [M]: this process's share, each photo's view seeded by its place in the whole batch."""
        places, rows, seed = range(self.order.batch_size)[self.order.share], self.order.mine(step), self.order.seed
        views = [
            self.augment(np.asarray(read_rgb(self.split.paths[row])), derive(seed, f"view {place}", step))
            for place, row in zip(places, rows.tolist(), strict=True)
        ]
        batch = torch.from_numpy(np.stack(views)), torch.from_numpy(self.split.labels[rows.numpy()])
        if get_worker_info():  # shared here, where a full /dev/shm is an error: the thread that sends a batch would lose it without a word
            for tensor in batch:
                tensor.share_memory_()
        return batch


def start_worker(_: int) -> None:
    """A worker that is told to end does so at once: while the interpreter takes itself down, the thread that sends a batch may be inside
    torch, and the process aborts ("terminate called without an active exception")."""
    die_with_parent()
    Finalize(None, os._exit, (0,), exitpriority=-100)
