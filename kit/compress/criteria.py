"""What a channel is worth, by name of the criterion.

| criterion | a channel's score |
|---|---|
| slimming | mean of abs γ over its batch norms (Liu et al. 2017) |
| magnitude | norm of all weights that give or take it (DepGraph, Fang et al. 2023) |
| taylor | Σ (Σ gradient · weight)² over the layers that give it, the inner sum over its weights (Molchanov et al. 2019) |
| random | drawn from the seed: the control |

Scores are measured by their group's mean. The paper's bare threshold was tried for slimming: in a short run, whose γ are still near one,
it took 26 of the stem's 32 channels (validation accuracy 0.44 before and 0.88 after fine-tuning on the photos that were drawn then, against
0.72 and 0.95). A group without batch norm has no γ and stays whole under slimming.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.compress.surgery import Group, Place
from kit.data.loader import Batches
from kit.errors import KitError
from kit.rng import derive

TAYLOR_BATCHES = 8

Scores = dict[str, Tensor]  # float32 [count] by group; a group that isn't there stays whole


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
    """One pass over a few training batches in evaluation mode, so that no statistics move; the loss is cross entropy, the mean over what
    is labelled."""
    if batches is None:
        raise KitError("prune.criterion=taylor needs photos for its gradients: give --data, or choose magnitude or slimming.")
    like, frozen = next(student.parameters()), [p for p in student.parameters() if not p.requires_grad]
    student.eval().requires_grad_(True)
    totals: Scores = {group.name: torch.zeros(group.count) for group in groups}
    for step in range(TAYLOR_BATCHES):
        images, labels = batches(step)
        student.zero_grad()
        answers, labels = student(images.to(like.device)), labels.to(like.device)
        total = F.cross_entropy(answers, labels, ignore_index=-1, reduction="sum")
        (total / (labels >= 0).sum().clamp(min=1)).backward()  # its own mean is no number where nothing is labelled
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


def sum_over(group: Group, values: dict[Place, Tensor]) -> Tensor:
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
