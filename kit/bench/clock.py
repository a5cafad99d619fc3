"""Several ways to do the same work, timed against each other: in one run, in rounds, every round in another order.

One figure alone means little: machines differ, and the same one differs from hour to hour. So ways are compared within a round, where
they share whatever else the machine does, and a round's order is shuffled, so that none is always the first after another.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

SECONDS = 1.0  # that a way is timed in each round
MOST = 10_000  # calls


@dataclass(frozen=True)
class Way:
    """One way to do the work.

    open: begins it anew for every round, so that no other way's workers are busy meanwhile; gives what is called and timed.
    amount: of the unit that one call does. warm: calls before the clock starts, as many as workers may have prepared in advance.
    least: calls that are timed at least.
    """

    name: str
    says: str
    open: Callable[[], AbstractContextManager[Callable[[], object]]]
    amount: float = 1
    warm: int = 1
    least: int = 2


@dataclass
class Timed:
    """A way's seconds for each call, a number a round."""

    way: Way
    seconds: list[float] = field(default_factory=list)


def always(work: Callable[[], object]) -> Callable[[], AbstractContextManager[Callable[[], object]]]:
    """For a way that has nothing to begin and nothing to end."""
    return lambda: nullcontext(work)


def counted(work: Callable[[int], object]) -> Callable[[], AbstractContextManager[Callable[[], object]]]:
    """For a way that is given the number of the call, from 0: a step. It goes on counting from round to round."""
    steps = iter(range(2**62))
    return always(lambda: work(next(steps)))


def measure(ways: Sequence[Way], rounds: int, device: torch.device, seconds: float) -> list[Timed]:
    """Time every way in every round. A call is a few milliseconds or minutes long: each way is called as often as fills `seconds`."""
    timed, shuffle = [Timed(way) for way in ways], random.Random(0)
    for _ in range(rounds):
        for one in shuffle.sample(timed, len(timed)):
            with one.way.open() as work:
                for _ in range(one.way.warm):
                    work()
                each = clock(work, one.way.least, device) / one.way.least  # of several: one batch may have been ready
                calls = max(one.way.least, min(MOST, math.ceil(seconds / each)))
                one.seconds.append(clock(work, calls, device) / calls)
            del work  # else its workers would end when the next has begun
    return timed


def clock(work: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of as many calls. A GPU is waited for before and after them, and not in between: a run does not wait there either."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
