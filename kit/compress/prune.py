"""Which channels go: ranked by a criterion (criteria.py), removed from the lowest on until what is left fits.

What a network without some channels costs is computed from its shapes; nothing is built before the choice is made, unless bytes are
asked for, which only packing tells.
"""

import bisect
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from kit.compress.criteria import CRITERIA, Scores
from kit.compress.surgery import Group, Removed, absorb, find_groups, remove, widths_after
from kit.config.schema import Prune
from kit.data.loader import Batches
from kit.errors import KitError
from kit.models.blocks import training_only
from kit.models.cost import count_macs

KEPT_SHARE = Fraction(1, 10)  # of a layer's channels, whatever is asked for; exact, since it is rounded up


@dataclass(frozen=True)
class Target:
    """What the pruned network may have at most; None is no limit. fill: then take channels back, the best first, while they fit."""

    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    fill: bool = False

    def __str__(self) -> str:
        parts = {"parameters": self.parameters, "MACs": self.macs, "bytes": self.bytes}
        return " and ".join(f"{limit:,} {what}" for what, limit in parts.items() if limit)


def slim(
    student: nn.Module,
    name: str,
    classes: int,
    image_size: int,
    how: Prune,
    target: Target,
    *,
    size_of: Callable[[nn.Module], int],
    seed: int = 0,
    batches: Batches | None = None,
) -> tuple[nn.Module, tuple[int, ...]]:
    """The largest student along the ranking that keeps the target, and its widths. The given one is left as it is.

    Args:
        batches: step → (images [N, 3, H, W], labels), for criterion "taylor".
        size_of: bytes of a packed student, for a target of bytes.
    Raises:
        KitError: no such student is left with a channel in every layer.
    """
    groups = find_groups(student, image_size)
    scores = CRITERIA[how.criterion](student, groups, seed, batches)
    ranked = [group for group in groups if group.name in scores]
    if not ranked:
        raise KitError(f"{name} has no batch norm whose γ could rank its channels. Choose prune.criterion=magnitude, taylor or random.")

    def build(counts: Sequence[int]) -> nn.Module:
        removed = lowest(ranked, scores, counts)
        whole = absorb(student, groups, removed, image_size) if how.absorb else student
        return remove(whole, name, classes, groups, removed)

    cost = Cost(student, ranked, image_size if target.macs else None)

    def fits(counts: Sequence[int]) -> bool:
        parameters, macs = cost(counts)
        return (
            parameters <= (target.parameters or parameters)
            and macs <= (target.macs or macs)
            and (not target.bytes or size_of(build(counts)) <= target.bytes)
        )

    counts = choose(ranked, scores, how, fits, target.fill and not target.bytes)
    if counts is None:
        smallest = removals(walk(ranked, scores, how), ranked, how)
        parameters, macs = cost(smallest)
        has = Target(parameters, macs if target.macs else None, size_of(build(smallest)) if target.bytes else None)
        raise KitError(
            f"No pruned {name!r} fits into {target}: the smallest, with {float(KEPT_SHARE):.0%} of the channels of every layer and no less "
            f"than {how.at_least}, has {has}. Raise prune.keep or the target, or lower prune.at_least."
        )
    return build(counts), widths_after(student, groups, lowest(ranked, scores, counts))


# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def choose(groups: list[Group], scores: Scores, how: Prune, fits: Callable[[Sequence[int]], bool], fill: bool) -> list[int] | None:
    """How many channels go from each group; None where even the most do not suffice."""
    path = walk(groups, scores, how)
    if not fits(removals(path, groups, how)):
        return None
    taken = path[: bisect.bisect_left(range(len(path)), True, key=lambda steps: fits(removals(path[:steps], groups, how)))]
    counts = removals(taken, groups, how)
    for i in dict.fromkeys(reversed(taken)) if fill else ():  # the group of the best lost channel first
        while counts[i]:
            back = counts.copy()
            back[i] = max(0, counts[i] - how.multiple)
            if not fits(back):
                break
            counts = back
    return counts


def walk(groups: list[Group], scores: Scores, how: Prune) -> list[int]:
    """The group that loses a channel, step by step. scope "layer" takes from all layers alike, "global" by score."""
    steps = []
    for i, group in enumerate(groups):
        keys = (torch.arange(group.count) + 1) / group.count if how.scope == "layer" else scores[group.name].sort(stable=True).values
        steps += [(float(key), i) for key in keys[: group.count - least(group, how)]]
    return [i for _, i in sorted(steps)]


def least(group: Group, how: Prune) -> int:
    return min(group.count, up_to_multiple(max(how.at_least, math.ceil(group.count * KEPT_SHARE)), how.multiple))


def up_to_multiple(channels: int, multiple: int) -> int:
    return -(-channels // multiple) * multiple


def removals(path: Sequence[int], groups: list[Group], how: Prune) -> list[int]:
    """Channels that go from each group after these steps, widths rounded up to the multiple where the layer has as many."""
    taken = Counter(path)
    return [group.count - min(group.count, up_to_multiple(group.count - taken[i], how.multiple)) for i, group in enumerate(groups)]


def lowest(groups: list[Group], scores: Scores, counts: Sequence[int]) -> Removed:
    order = {group.name: scores[group.name].argsort(stable=True) for group in groups}
    return {group.name: order[group.name][:count].sort().values for group, count in zip(groups, counts, strict=True) if count}


class Cost:
    """(parameters, MACs of one photo) of a network without so many channels of each group.

    image_size: of the photo; None where no MACs are wanted, and they are 0.
    """

    def __init__(self, student: nn.Module, groups: list[Group], image_size: int | None):
        layers = dict(student.named_modules())
        beside = training_only(student)
        own = {name: layer.parameters(recurse=False) for name, layer in layers.items() if layer not in beside}
        self.shapes = {name: [tuple(p.shape) for p in parameters] for name, parameters in own.items()}
        macs = count_macs(student, image_size) if image_size else {}
        self.pixels = {name: count // layers[name].weight.numel() for name, count in macs.items()}
        self.takers: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for i, group in enumerate(groups):
            for place in group.places:
                self.takers.setdefault((place.module, place.side), []).append((i, len(place.positions) // group.count))

    def __call__(self, counts: Sequence[int]) -> tuple[int, int]:
        parameters = macs = 0
        for name, shapes in self.shapes.items():
            outs, ins = (sum(counts[i] * each for i, each in self.takers.get((name, side), ())) for side in (0, 1))
            for shape in shapes:
                rest = torch.Size(shape[2:]).numel()
                size = (shape[0] - outs) * (shape[1] - ins if len(shape) > 1 else 1) * rest if shape else 1
                parameters += size
                macs += size * self.pixels.get(name, 0) if len(shape) > 1 else 0
        return parameters, macs
