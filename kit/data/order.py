"""Which photos make up a step: a function of the seed and the step alone."""

import numpy as np
import torch
from torch import Tensor

from kit.errors import KitError
from kit.rng import generator
from kit.world import World


class Order:
    """Which photos make up a step. The last, smaller batch of an epoch is dropped: nine photos are too few for batch norm.

    The batches are the same for any number of processes, of fewer photos than a batch as many as those can share evenly; `share` is the
    part of each that this one is given, whole pairs of photos where `pairs` asks for that. With `balance`, int64 [photos] of labels, an
    epoch shows every class as often as any other.

    Raises:
        KitError: there are fewer photos than that takes.
    """

    def __init__(
        self,
        photos: int,
        batch_size: int,
        seed: int,
        world: World | None = None,
        balance: np.ndarray | None = None,
        pairs: bool = False,
    ):
        world = world or World()
        together = 2 if pairs and world.size > 1 else 1
        least = world.size * together
        if photos < least:
            raise KitError(f"{photos} photos can't be shared by {world.size} processes: begin fewer, or give more photos.")
        self.photos, self.seed, self.balance = photos, seed, balance
        self.batch_size = min(batch_size, photos // least * least)  # of few photos as many as the processes can share
        self.share = world.share(self.batch_size, together)
        self.steps_per_epoch = photos // self.batch_size
        self.drawn: dict[int, Tensor] = {}  # epochs: the one that was asked for last and its neighbours

    def rows(self, step: int) -> Tensor:
        """int64 [batch_size], of the whole batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if (shuffled := self.drawn.get(epoch)) is None:
            shuffled = self.draw(epoch)
            near = {other: rows for other, rows in self.drawn.items() if abs(other - epoch) == 1}
            self.drawn = near | {epoch: shuffled}  # replaced, not changed: threads that gather ahead ask too
        return shuffled[place * self.batch_size : (place + 1) * self.batch_size]

    def mine(self, step: int) -> Tensor:
        """int64 [M], this process's share."""
        return self.rows(step)[self.share]

    def draw(self, epoch: int) -> Tensor:
        """int64 [photos]."""
        draw = generator(self.seed, "order", epoch)
        return torch.randperm(self.photos, generator=draw) if self.balance is None else balanced(self.balance, draw)


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
