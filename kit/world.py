"""One run in several processes, a GPU each: who this one is, and the few things they must say to each other.

`torchrun --nproc-per-node 2 -m kit run …` starts them, on one machine or several. All do the same work, each on its share of every
batch; gradients, batch norm's statistics and losses are averaged, so all hold the same weights after every step. What is done once
(decoding, files, predicting) the first does, and the others learn how it ended.

DistributedDataParallel was left out. It hides the averaging behind backward in buckets, which pays for millions of parameters; a
student's gradients are one message of 240 kB, adapters need no wrapper of their own, and the sum's order is ours to state.
"""

import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kit.errors import KitError

PATIENCE = datetime.timedelta(hours=12)  # the first may decode for hours; torchrun ends the others when it dies
LAUNCH = "torchrun --nproc-per-node 2 -m kit run … sets all that several processes need; for one alone, unset WORLD_SIZE."


class World:
    """rank: 0 is the first. size: 1 is a run as most are, and nothing here costs anything."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self.alone = size == 1  # also while the first works for all

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: int, together: int = 1) -> slice:
        """This process's slice of a batch; every `together` neighbouring photos stay in one process.

        Raises:
            KitError: the parts would not be equal, and averages over them no averages over the batch.
        """
        if self.alone:
            return slice(None)
        if batch % (least := self.size * together):
            mixed = ", which mix neighbours" if together > 1 else ""
            raise KitError(
                f"A batch of {batch} photos can't be shared by {self.size} processes{mixed}: set train.batch_size, and of a teacher that "
                f"the run trains teacher.train.batch_size, to multiples of {least}."
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over all processes: one message."""
        if self.alone or not (tensors := list(tensors)):
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.size).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def all(self, yes: bool) -> bool:
        """Whether every process says yes; on the CPU, so that no device is waited for."""
        if self.alone:
            return yes
        vote = torch.tensor(int(yes))
        dist.all_reduce(vote, dist.ReduceOp.MIN)
        return bool(vote)

    def attempted(self, work: Callable[[], Any]) -> tuple[Any, Exception | None]:
        """What `work` returns, or what it raises, done as if this process were the only one."""
        with self.leading():
            try:
                return work(), None
            except Exception as error:
                return None, error

    def lead(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, or raises, done by the first process alone and told to the others."""
        if self.alone:
            return work()
        outcome = list(self.attempted(work)) if self.first else [None, None]
        dist.broadcast_object_list(outcome, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """`work` by the first, then by the others, who find what it has made. What one of them raises, all do: none goes on alone."""
        if self.alone:
            return work()
        done, own = None, None
        for mine in (self.first, not self.first):
            if mine:
                done, own = self.attempted(work)
            errors: list[Exception | None] = [None] * self.size
            dist.all_gather_object(errors, own)
            if raised := next(filter(None, errors), None):
                raise raised
        return done

    @contextmanager
    def leading(self) -> Iterator[None]:
        self.alone = True
        try:
            yield
        finally:
            self.alone = self.size == 1


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun has described in the environment; without it, one process alone.

    Raises:
        KitError: the description has a gap, or the others are not to be found by it.
    """
    size = told("WORLD_SIZE", range(1, 2**16)) if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        yield World()
        return
    told("RANK", range(size))
    told("MASTER_PORT", range(1, 2**16))
    if torch.cuda.is_available():
        torch.cuda.set_device(told("LOCAL_RANK", range(torch.cuda.device_count())))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    except (ValueError, dist.DistNetworkError) as error:  # no MASTER_ADDR, or another run has the port
        raise KitError(f"The {size} processes can't find each other ({str(error).splitlines()[0].rstrip('.')}). {LAUNCH}") from None
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def told(name: str, allowed: range) -> int:
    """A number in the environment."""
    found = os.environ.get(name)
    if found is None or not found.isdecimal() or int(found) not in allowed:
        says = "is not set" if found is None else f"is {found!r}"
        raise KitError(f"{name} {says} in the environment, and should be a number from {allowed[0]} to {allowed[-1]}. {LAUNCH}")
    return int(found)
