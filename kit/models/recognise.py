"""Which network a state dict is of, by the names and shapes of its tensors."""

from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.models.blocks import Select, has_width
from kit.models.library import is_library, renamed, shapes_on
from kit.models.students import TABLE, build_student
from kit.models.teacher import build_teacher

CLASSIFIERS = ("fc.weight", "fc.0.weight")  # of every student and of a ResNet


def recognise(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Module]]:
    """(name, network with these weights) of every student or teacher that has exactly these tensors: some are one shape, which differs in
    its widths alone."""
    for name in [*TABLE, "torchvision/resnet18"]:
        if model := as_network(weights, name):
            yield name, model


def as_network(weights: Mapping[str, Tensor], name: str) -> nn.Module | None:
    """The network of that name with these weights, at whatever widths they have; None where they are another's."""
    try:
        if is_library(name):
            weights = renamed(weights, build_student(name, (), 2))
        if not (outputs := outputs_of(weights)):
            return None
        with torch.device(shapes_on(name)):
            teacher = name.startswith("torchvision/")
            model = build_teacher(name, outputs) if teacher else build_student(name, widths_in(weights, name), outputs)
    except KitError:
        if name in TABLE or name.startswith("torchvision/"):
            return None
        raise
    own = model.state_dict()
    if {key: tensor.shape for key, tensor in own.items()} != {key: tensor.shape for key, tensor in weights.items()}:
        return None
    whole = {key: tensor.round().to(own[key].dtype) for key, tensor in weights.items() if not own[key].is_floating_point()}
    model.load_state_dict({**weights, **whole}, assign=True)  # other programs' files may hold an index as a float
    return model.eval()


def outputs_of(weights: Mapping[str, Tensor]) -> int:
    """Classes: rows of the classifier by its name, for a file may hold its tensors in any order. 0 where there is none."""
    return next((len(weights[name]) for name in CLASSIFIERS if name in weights and weights[name].ndim == 2), 0)


@cache
def telling(name: str) -> tuple[str, ...]:
    """The tensors whose lengths are a student's widths."""
    with torch.device(shapes_on(name)):
        modules = build_student(name, (), 2).named_modules()
    return tuple(f"{path}.{'index' if isinstance(m, Select) else 'weight'}" for path, m in modules if has_width(m))


def widths_in(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """The widths that a student's weights tell; none, for the table's own, where these are another network's."""
    keys = telling(name)
    return tuple(len(weights[key]) for key in keys) if all(key in weights and weights[key].ndim for key in keys) else ()
