"""Low rank: a layer as two or three thinner ones, for a network whose batch norms are folded.

| layer | becomes | |
|---|---|---|
| linear, dense 1×1 | ins → r → outs | truncated SVD |
| dense k×k | 1×1 ins → r₁, k×k r₁ → r₂, 1×1 r₂ → outs | Tucker-2 by HOSVD (Kim et al. 2016, section 3.1) |
| depthwise | itself | its matrices are as thin already |
| one that never trains | itself | a frozen stem, SimKD's classifier: its thinner ones would learn |

At full rank the answers are the same. A layer is only replaced where that saves parameters; pointwise convolutions of tiny students are
nearly of full rank, so there is little to be had there without training again.
"""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kit.compress.fold import fold
from kit.errors import KitError
from kit.models.blocks import following, has_width
from kit.models.students import count_parameters

HALVINGS = 20  # of the interval of energy shares

Ranks = dict[str, tuple[int, ...]]  # (r,) or (r₁ of the inputs, r₂ of the outputs) by layer
Layers = dict[str, tuple[torch.Size, list[Tensor]]]  # a weight's shape, and a tensor for each of its ranks


def factorise(folded: nn.Module, ranks: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy with these layers at these ranks; the given one is left as it is."""
    model = factor_shape(copy.deepcopy(folded), ranks)
    with torch.no_grad():
        for name, its_ranks in ranks.items():
            layer, parts = folded.get_submodule(name), model.get_submodule(name)
            for part, weight in zip(parts, factors(layer.weight, its_ranks), strict=True):
                part.weight.copy_(weight)
            if layer.bias is not None:
                parts[-1].bias.copy_(layer.bias)
    return model


def factor_shape(model: nn.Module, ranks: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The modules that factorising would leave, in place and with no weights computed."""
    for name, its_ranks in ranks.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, thinner(model.get_submodule(name), its_ranks))
    return model


class Factored(nn.Sequential):
    """A layer as the thinner ones that it became. Their widths are its ranks; the last has the layer's own, which is the student's."""

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(part.out_features if isinstance(part, nn.Linear) else part.out_channels for part in self[:-1])


def ranks_in(model: nn.Module) -> Ranks:
    """Of the layers that are factorised."""
    return {name: module.ranks for name, module in model.named_modules() if isinstance(module, Factored)}


def thinner(layer: nn.Module, ranks: tuple[int, ...]) -> Factored:
    if isinstance(layer, nn.Linear):
        return Factored(
            nn.Linear(layer.in_features, ranks[0], bias=False), nn.Linear(ranks[0], layer.out_features, bias=layer.bias is not None)
        )
    middle = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "bias": False}
    last = nn.Conv2d(ranks[-1], layer.out_channels, 1, bias=layer.bias is not None)
    if not has_width(layer):
        following(last)
    if len(ranks) == 1:
        return Factored(following(nn.Conv2d(layer.in_channels, ranks[0], layer.kernel_size, **middle)), last)
    first = following(nn.Conv2d(layer.in_channels, ranks[0], 1, bias=False))
    return Factored(first, following(nn.Conv2d(ranks[0], ranks[1], layer.kernel_size, **middle)), last)


def factors(weight: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """The weights of the thinner layers, first to last, whose product is nearest to `weight` [outs, ins, …]."""
    if len(ranks) == 1:
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        root, tail = s[: ranks[0]].sqrt(), (1,) * (weight.ndim - 2)
        return [(root[:, None] * v[: ranks[0]]).reshape(-1, *weight.shape[1:]), (u[:, : ranks[0]] * root).reshape(len(weight), -1, *tail)]
    inner, outer = basis(weight.transpose(0, 1), ranks[0]), basis(weight, ranks[1])
    core = torch.einsum("oikl,ir,os->srkl", weight, inner, outer)
    return [inner.T[:, :, None, None], core, outer[:, :, None, None]]


def basis(weight: Tensor, rank: int) -> Tensor:
    """[n, rank]: the leading left singular vectors of weight [n, …] as a matrix."""
    return torch.linalg.svd(weight.flatten(1), full_matrices=False).U[:, :rank]


def ranks_of_energy(folded: nn.Module, share: float) -> Ranks:
    """The least ranks that keep this share of Σσ² of every matrix, for the layers where that saves parameters."""
    return ranks_at(energies(folded), share)


def ranks_up_to(folded: nn.Module, most: int) -> Ranks:
    """This rank, or a matrix's own where that is less, for the layers where that saves parameters."""
    return where_it_saves(matrices(folded), lambda matrix: min(most, *matrix.shape))


def ranks_at(energies: Layers, share: float) -> Ranks:
    return where_it_saves(energies, lambda energy: int((energy < share * energy[-1]).sum()) + 1)


def where_it_saves(layers: Layers, rank_of: Callable[[Tensor], int]) -> Ranks:
    ranks = {name: (shape, tuple(rank_of(one) for one in its)) for name, (shape, its) in layers.items()}
    return {name: its for name, (shape, its) in ranks.items() if saves(shape, its)}


def energies(folded: nn.Module) -> Layers:
    """Of each matrix σ₁², σ₁² + σ₂², …"""
    layers = matrices(folded).items()
    return {name: (shape, [torch.linalg.svdvals(one.double()).square().cumsum(0) for one in its]) for name, (shape, its) in layers}


def matrices(folded: nn.Module) -> Layers:
    """Those whose ranks are a layer's: of its inputs' rows and of its outputs' where a kernel stays between the two, else the weight."""
    found: Layers = {}
    for name, layer in folded.named_modules():
        dense = isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
        if dense and layer.weight.requires_grad:
            weight = layer.weight.detach()
            both = weight.ndim == 4 and math.prod(weight.shape[2:]) > 1
            found[name] = weight.shape, [one.flatten(1) for one in ((weight.transpose(0, 1), weight) if both else (weight,))]
    return found


def saves(shape: torch.Size, ranks: tuple[int, ...]) -> bool:
    outs, ins, kernel = shape[0], shape[1], math.prod(shape[2:])
    parts = ins * ranks[0] * (kernel if len(ranks) == 1 else 1) + outs * ranks[-1] + (math.prod(ranks) * kernel if len(ranks) == 2 else 0)
    return parts < outs * ins * kernel


def parameters_at(student: nn.Module, ranks: Mapping[str, tuple[int, ...]]) -> int:
    """How many a student has with these layers at these ranks, batch norm's among them, as limits count."""
    with torch.device("meta"):
        return count_parameters(factor_shape(copy.deepcopy(student).to("meta"), ranks))


def ranks_within(student: nn.Module, parameters: int) -> Ranks:
    """The ranks of the largest share of energy with which the student has at most so many parameters, batch norm's among them.

    Raises:
        KitError: even with one of everything it has more.
    """
    its_energies, shape = energies(fold(student)), copy.deepcopy(student).to("meta")  # once: a share only moves a threshold

    def size(share: float) -> int:
        return parameters_at(shape, ranks_at(its_energies, share))

    if size(0.0) > parameters:
        raise KitError(
            f"At rank one {size(0.0):,} parameters are left, more than {parameters:,}. Remove channels: `kit compress --by channels`; in a "
            "run prune, before lowrank or instead of it."
        )
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return ranks_at(its_energies, low)
