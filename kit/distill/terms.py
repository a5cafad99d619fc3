"""The objective's terms: from a term's config to what computes it. One table for terms of logits, one for terms of maps.

A term of maps is a small module that is given the student's maps and the teacher's and returns the loss. What it trains along (adapters,
embeddings, fusion) is its own: it is saved in the checkpoint and never reaches the deployed student.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.config.terms import AFD, AT, CE, CRD, DIST, DKD, KD, L2, MLKD, RKD, SP, FixedKD, Hint, Review, SimKD, Term
from kit.distill import features, losses
from kit.distill.align import adapter, pool_to, same_size

Shape = tuple[int, int, int]  # channels, height, width of a map
DISTANCES = {"smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss}


def as_asked(term: KD | DKD | MLKD, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """As they are, or standardised if the term says so."""
    return (losses.standardise(ours), losses.standardise(theirs)) if term.standardise else (ours, theirs)


# (term, the student's logits, the teacher's, labels) → loss
OF_LOGITS: dict[type, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    CE: lambda term, ours, theirs, labels: losses.ce(ours, labels, term.smoothing),
    KD: lambda term, ours, theirs, labels: losses.kd(*as_asked(term, ours, theirs), term.temperature),
    FixedKD: lambda term, ours, theirs, labels: losses.kd(ours, theirs, term.temperature),
    L2: lambda term, ours, theirs, labels: losses.l2(ours, theirs),
    DKD: lambda term, ours, theirs, labels: losses.dkd(*as_asked(term, ours, theirs), labels, term.temperature, term.alpha, term.beta),
    DIST: lambda term, ours, theirs, labels: losses.dist(ours, theirs, term.temperature, term.beta, term.gamma),
    MLKD: lambda term, ours, theirs, labels: losses.mlkd(*as_asked(term, ours, theirs), term.temperatures),
}


class Pulled(nn.Module):
    """Two maps at the smaller one's size, the student's brought to the teacher's width by a 1×1 convolution: Huber's loss with β = 1, as
    source 002 aligns its layers, or FitNets' (Romero et al. 2015, equation 3) as a mean instead of half a sum."""

    def __init__(self, term: Hint, ours: Sequence[Shape], theirs: Sequence[Shape]):
        super().__init__()
        self.loss, self.adapt = DISTANCES[term.distance], adapter(ours[0][0], theirs[0][0])

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return features.channels_last(self.loss, *same_size(self.adapt(ours[0]), theirs[0]))


class Compared(nn.Module):
    """Maps that a loss compares as they are; nothing is trained along."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return self.loss(ours[0], theirs[0])


def relations(term: RKD) -> Callable[[Tensor, Tensor], Tensor]:
    """RKD of the maps' means over space."""

    def loss(ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = ours.mean((2, 3)), theirs.mean((2, 3))
        return term.distance * features.rkd_distance(ours, theirs) + term.angle * features.rkd_angle(ours, theirs)

    return loss


class Embedded(nn.Module):
    """CRD: each network's map, averaged over space, in a space of `width` dimensions."""

    def __init__(self, term: CRD, ours: Sequence[Shape], theirs: Sequence[Shape]):
        super().__init__()
        self.temperature = term.temperature
        self.student, self.teacher = nn.Linear(ours[0][0], term.width), nn.Linear(theirs[0][0], term.width)

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        return features.crd(self.student(ours[0].mean((2, 3))), self.teacher(theirs[0].mean((2, 3))), self.temperature)


class Fusion(nn.Module):
    """ReviewKD's attention based fusion (Chen et al. 2021, section 3.2): a stage's map and the fused one of the deeper stages, each
    weighted at every place. Nearest places instead of interpolation in between, as in the authors' code."""

    def __init__(self, ours: int, width: int, theirs: int, deepest: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(ours, width, 1, bias=False), nn.BatchNorm2d(width))
        self.weigh = None if deepest else nn.Conv2d(2 * width, 2, 1)
        self.leave = nn.Sequential(nn.Conv2d(width, theirs, 3, 1, 1, bias=False), nn.BatchNorm2d(theirs))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what is compared with the teacher's map, what goes on to the stage above)."""
        x = self.enter(x)
        if self.weigh is not None:
            deeper = F.interpolate(deeper, x.shape[2:])
            shares = self.weigh(torch.cat((x, deeper), dim=1)).sigmoid()
            x = x * shares[:, :1] + deeper * shares[:, 1:]
        return self.leave(x), x


class Reviewed(nn.Module):
    """The student's stages fused from the deepest upwards, each compared with its teacher's stage by HCL."""

    def __init__(self, term: Review, ours: Sequence[Shape], theirs: Sequence[Shape]):
        super().__init__()
        pairs = list(zip(ours, theirs, strict=True))
        self.fusions = nn.ModuleList(Fusion(a[0], term.width, b[0], i == len(pairs)) for i, (a, b) in enumerate(pairs, 1))

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        total, deeper = ours[0].new_zeros(()), None
        for fuse, a, b in reversed(list(zip(self.fusions, ours, theirs, strict=True))):
            fused, deeper = fuse(a, deeper)
            total = total + features.hcl(*same_size(fused, b))
        return total


class Attended(nn.Module):
    """AFD: each of the teacher's stages asks, each of the student's answers, and the softmax of how well they match shares out which
    follows which (Ji et al. 2021, section 3).

    Queries and keys are linear in the maps' means over space, with a vector of its own for each stage; the paper has batch norms and a
    bilinear form for each pair in between.
    """

    def __init__(self, term: AFD, ours: Sequence[Shape], theirs: Sequence[Shape]):
        super().__init__()
        self.keys = nn.ModuleList(nn.Linear(shape[0], term.width) for shape in ours)
        self.queries = nn.ModuleList(nn.Linear(shape[0], term.width) for shape in theirs)
        self.sizes = [(min(s[1] for s in (*ours, one)), min(s[2] for s in (*ours, one))) for one in theirs]

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        keys = torch.stack([embed(x.mean((2, 3))) for embed, x in zip(self.keys, ours, strict=True)], dim=1)
        total = keys.new_zeros(())
        for embed, x, size in zip(self.queries, theirs, self.sizes, strict=True):
            query = embed(x.mean((2, 3)))
            shares = torch.einsum("nsd,nd->ns", keys, query).div(query.shape[1] ** 0.5).softmax(dim=1)
            seen = torch.stack([features.attention(pool_to(y, size)) for y in ours], dim=1)
            total = total + features.afd(seen, features.attention(pool_to(x, size)), shares)
        return total


# (term, shapes of the student's maps, of the teacher's) → module
OF_MAPS: dict[type, Callable[[Any, Sequence[Shape], Sequence[Shape]], nn.Module]] = {
    Hint: Pulled,
    AT: lambda term, ours, theirs: Compared(lambda a, b: features.at(*same_size(a, b))),
    SP: lambda term, ours, theirs: Compared(features.sp),
    RKD: lambda term, ours, theirs: Compared(relations(term)),
    CRD: Embedded,
    SimKD: lambda term, ours, theirs: Compared(lambda a, b: features.channels_last(F.mse_loss, *same_size(a, b))),
    Review: Reviewed,
    AFD: Attended,
}


def taps(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def names_of(terms: Sequence[Term]) -> list[str]:
    """What each term is logged as: its loss, a hint with the teacher's module; a number where that is taken."""
    names: list[str] = []
    for term in terms:
        name = f"hint {term.teacher}" if isinstance(term, Hint) else term.loss
        taken = sum(other == name or other.rpartition(" #")[0] == name for other in names)
        names.append(f"{name} #{taken + 1}" if taken else name)
    return names
