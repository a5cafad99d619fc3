"""The networks that a study's configs name, for its figures and layer tables: shapes, without weights."""

import torch
from torch import nn

from kit.config.competitions import competition
from kit.config.schema import Config
from kit.models.cost import called
from kit.models.library import shapes_on
from kit.models.widths import new_student
from kit.studies.study import Study

CLASSES = 10  # where a competition does not say
Box = tuple[str, tuple[int, ...], int]  # module's name, shape of its maps, parameters


def networks_of(study: Study) -> dict[str, nn.Module]:
    """The students of the arms as they are in full, by name, each once."""
    configs = {named(arm.config): arm.config for arm in study.arms}
    return {name: build(config) for name, config in configs.items()}


def named(config: Config) -> str:
    size = config.student.parameters
    return config.student.name + (f" of {size:,}" if size else "")


def build(config: Config) -> nn.Module:
    with torch.device(shapes_on(config.student.name)):
        return new_student(config.student, classes_of(config))


def classes_of(config: Config) -> int:
    return len(competition(config.competition).classes or range(CLASSES))


def boxes(model: nn.Module, image_size: int) -> list[Box]:
    """The blocks of a network in the order in which they are called: its layers with weights, or what strings some of them together."""
    rows = called(model, blocks_of(model), image_size)
    return [(name, tuple(shape[1:]), sum(p.numel() for p in module.parameters())) for name, module, shape in rows]


def blocks_of(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """A sequence of blocks is opened, and timm's network inside a student; a sequence of layers is one block, as is every other module.
    Of single layers those with a weight of their own to learn: convolutions and linear ones."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        parts = list(child.children())
        if name == "body" or (isinstance(child, nn.Sequential) and any(list(part.children()) for part in parts)):
            found |= blocks_of(child, f"{prefix}{name}.")
        elif isinstance(child, (nn.Conv2d, nn.Linear)) or (parts and any(True for _ in child.parameters())):
            found[f"{prefix}{name}"] = child
    return found
