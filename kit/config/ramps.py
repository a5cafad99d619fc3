"""What a term's weight is multiplied by in the course of a run: functions of p, the share of the plan's epochs that is over, 0 ≤ p < 1.

A ramp is a name, or points (p, factor) with straight lines between them: two points at one p are a jump, before the first and after the
last the factor stays.
"""

import bisect
import math
from collections.abc import Callable
from functools import cache

from kit.errors import nearest

Points = tuple[tuple[float, float], ...]

RAMPS: dict[str, Callable[[float], float]] = {
    "constant": lambda p: 1.0,
    "p": lambda p: p,
    "1-p": lambda p: 1 - p,
    "p^4": lambda p: p**4,
    "p^2(1-p^2)": lambda p: p**2 * (1 - p**2),
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,  # from 1 to 0
    "first half": lambda p: float(p < 0.5),
    "second half": lambda p: float(p >= 0.5),
    "warmup": lambda p: min(1.0, 10 * p),  # over the first tenth
}
PLACES = tuple(i / 1000 for i in range(1000))  # at which a ramp is looked at when the recipe is built


def factor(ramp: str | Points, p: float) -> float:
    return RAMPS[ramp](p) if isinstance(ramp, str) else between(ramp, p)


def is_off(ramp: str | Points, p: float) -> bool:
    """Whether it is zero from p on for a while, not in p alone."""
    return factor(ramp, p) == factor(ramp, p + 1e-6) == 0


@cache  # a study builds thousands of recipes, which share a few ramps
def off_places(ramp: str | Points) -> frozenset[float]:
    """Those of PLACES at which it is off."""
    return frozenset(p for p in PLACES if is_off(ramp, p))


def between(points: Points, p: float) -> float:
    after = bisect.bisect_right([x for x, _ in points], p)
    if after in (0, len(points)):
        return points[max(0, after - 1)][1]
    (a, u), (b, v) = points[after - 1 : after + 1]
    return u + (v - u) * (p - a) / (b - a)


@cache
def check(ramp: str | Points) -> str | Points:
    """The ramp, if it is one.

    Raises:
        ValueError: there is no such ramp, its points are in no order, or somewhere it gives no weight.
    """
    if isinstance(ramp, str) and ramp not in RAMPS:
        raise ValueError(f"there is no ramp {ramp!r}. Nearest: {nearest(ramp, RAMPS)}; or give points, [[p, factor], …]")
    places = [] if isinstance(ramp, str) else [x for x, _ in ramp]
    if not isinstance(ramp, str) and (not places or places != sorted(places) or not all(0 <= x <= 1 for x in places)):
        raise ValueError(f"the ramp's points are {ramp}: give at least one [p, factor], p from 0 to 1 and rising")
    for p in PLACES:
        try:
            value = factor(ramp, p)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(f"the ramp {ramp!r} has no value at p = {p:g} ({error}): choose another, or give points") from None
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"the ramp {ramp!r} is {value} at p = {p:g}, and a weight is a number from 0 up: choose another, or give points"
            )
    return ramp
