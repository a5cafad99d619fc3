"""Which channels go: ranked by a criterion, removed from the lowest on until what is left fits.

| criterion | a channel's score |
|---|---|
| slimming | mean of \\|γ\\| over its batch norms (Liu et al. 2017) |
| magnitude | norm of all weights that give or take it (DepGraph, Fang et al. 2023) |
| taylor | Σ (Σ gradient · weight)² over the layers that give it, the inner sum over its weights (Molchanov et al. 2019) |
| random | drawn from the seed: the control |

Scores are measured by their group's mean. The paper's bare threshold was tried for slimming: in a short run, whose γ are still near one,
it took 26 of the stem's 32 channels (validation accuracy 0.44 before and 0.88 after fine-tuning on the drawn photos, against 0.72 and
0.95). A group without batch norm has no γ and stays whole under slimming.

What a network without some channels costs is computed from its shapes; nothing is built before the choice is made, unless bytes are
asked for, which only packing tells.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.compress.surgery import Group, Removed, absorb, find_groups, remove, widths_after
from kit.config.schema import Prune
from kit.errors import KitError
from kit.models.counting import count_macs
from kit.rng import derive

LEAST = 10  # a layer keeps a tenth of its channels, whatever is asked for
TAYLOR_BATCHES = 8

Batches = Callable[[int], tuple[Tensor, Tensor]]
Scores = dict[str, Tensor]  # float32 [count] by group; a group that isn't there stays whole


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
    seed: int = 0,
    batches: Batches | None = None,
    size_of: Callable[[nn.Module], int] | None = None,
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
        smallest, _ = cost(removals(walk(ranked, scores, how), ranked, how))
        raise KitError(
            f"No pruned {name!r} fits into {target}: the smallest, with {1 / LEAST:.0%} of the channels of every layer and no less than "
            f"{how.at_least}, has {smallest:,} parameters. Raise prune.keep or the target, or lower prune.at_least."
        )
    return build(counts), widths_after(student, groups, lowest(ranked, scores, counts))


# ── criteria ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def slimming(student: nn.Module, groups: list[Group], seed: int, batches: Batches | None) -> Scores:
    scores = {}
    for group in groups:
        norms = [place for place in group.places if isinstance(student.get_submodule(place.module), nn.BatchNorm2d)]
        if norms:
            gammas = {place: student.get_submodule(place.module).weight.detach().abs() for place in norms}
            scores[group.name] = by_mean(sum_over(group, gammas))
    return scores


def magnitude(student: nn.Module, groups: list[Group], seed: int, batches: Batches | None) -> Scores:
    scores = {}
    for group in groups:
        squares = {}
        for place in group.places:
            layer = student.get_submodule(place.module)
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                squares[place] = layer.weight.detach().float().square().transpose(0, place.side).flatten(1).sum(1)
        scores[group.name] = by_mean(sum_over(group, squares).sqrt())
    return scores


def taylor(student: nn.Module, groups: list[Group], seed: int, batches: Batches | None) -> Scores:
    """One pass over a few training batches in evaluation mode, so that no statistics move; the loss is cross entropy."""
    if batches is None:
        raise KitError("prune.criterion=taylor needs photos for its gradients: give --data, or choose magnitude or slimming.")
    like, frozen = next(student.parameters()), [p for p in student.parameters() if not p.requires_grad]
    student.eval().requires_grad_(True)
    totals: Scores = {group.name: torch.zeros(group.count) for group in groups}
    for step in range(TAYLOR_BATCHES):
        images, labels = batches(step)
        student.zero_grad()
        F.cross_entropy(student(images.to(like.device)), labels.to(like.device)).backward()
        for group in groups:
            giving = [place for place in group.places if place.side == 0]
            changes = {place: change(student.get_submodule(place.module)) for place in giving}
            totals[group.name] += sum_over(group, {place: value for place, value in changes.items() if value is not None})
    student.zero_grad()
    for parameter in frozen:
        parameter.requires_grad_(False)
    return {name: by_mean(total) for name, total in totals.items()}


def change(layer: nn.Module) -> Tensor | None:
    """(Σ gradient · weight)² of every channel that a layer gives: what the loss would change by without it, to first order."""
    own = [p for p in layer.parameters(recurse=False) if p.grad is not None]
    return sum((p * p.grad).detach().flatten(1).sum(1) if p.ndim > 1 else (p * p.grad).detach() for p in own).square() if own else None


def at_random(student: nn.Module, groups: list[Group], seed: int, batches: Batches | None) -> Scores:
    draw = torch.Generator().manual_seed(derive(seed, "random pruning"))
    return {group.name: torch.rand(group.count, generator=draw) for group in groups}


def sum_over(group: Group, values: dict) -> Tensor:
    """{place: a number for each of its layer's channels} → float32 [count], mean over the places."""
    total = torch.zeros(group.count)
    for place, each in values.items():
        total.index_add_(0, place.channels, each.cpu().float()[place.positions])
    return total / max(len(values), 1)


def by_mean(score: Tensor) -> Tensor:
    return score / score.mean() if score.mean() > 0 else score


CRITERIA: dict[str, Callable[[nn.Module, list[Group], int, Batches | None], Scores]] = {
    "slimming": slimming,
    "magnitude": magnitude,
    "taylor": taylor,
    "random": at_random,
}


# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def choose(
    groups: list[Group], scores: Scores, how: Prune, fits: Callable[[Sequence[int]], bool], fill: bool
) -> list[int] | None:
    """How many channels go from each group; None where even the most do not suffice."""
    path = walk(groups, scores, how)
    low, high = 0, len(path)
    if not fits(removals(path, groups, how)):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(removals(path[:middle], groups, how)) else (middle + 1, high)
    counts = removals(path[:low], groups, how)
    for i in dict.fromkeys(reversed(path[:low])) if fill else ():  # the group of the best lost channel first
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
    return min(group.count, up_to_multiple(max(how.at_least, -(-group.count // LEAST)), how.multiple))


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
        self.shapes = {name: [tuple(p.shape) for p in layer.parameters(recurse=False)] for name, layer in layers.items()}
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
