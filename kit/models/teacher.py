"""The teacher: a ResNet-18 from torchvision or timm, from a file, from pretrained weights on disk, or new.

Whatever it comes from, it is weights only: no pickle from outside is executed.
"""

import os
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from kit.errors import KitError, in_brief
from kit.files import sha256_of
from kit.models.weights import read_weights

PRETRAINED = "resnet18-*.pth"  # torchvision's file names carry the first digits of the file's sha256


def build_teacher(arch: str, classes: int) -> nn.Module:
    """A ResNet-18 with new weights. Both libraries give the same tensor names, so either loads the other's files."""
    library, name = arch.split("/")
    if library == "timm":
        return timm.create_model(name, pretrained=False, num_classes=classes)
    return torchvision.models.get_model(name, weights=None, num_classes=classes)


def load_teacher(file: Path, arch: str, classes: int | None) -> nn.Module:
    """The teacher in a file, frozen and in evaluation mode: in train mode a mere look through it would move its BN statistics.

    classes: how many outputs it must have, None for as many as it has.

    Raises:
        KitError: there is none, it can't be read, or it has another number of outputs or another architecture's tensors.
    """
    try:
        weights = read_weights(file)
    except FileNotFoundError:
        raise KitError(f"There is no teacher file {file}. Without --teacher the run trains its own.") from None
    outputs = len(weights["fc.bias"]) if "fc.bias" in weights else None
    if outputs is not None and outputs != (classes or outputs):
        raise KitError(
            f"The teacher {file} has {outputs} outputs, the data has {classes} classes. "
            "Give a teacher of these classes with --teacher, or none: then the run trains its own."
        )
    model = build_teacher(arch, classes or outputs or 1)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise KitError(
            f"{file} is no {arch}: {in_brief(error, 200).rstrip('.')}. Give a ResNet-18's state dict, its names as torchvision has them; "
            "what the kit has trained teaches by its run's folder or its student.kit."
        ) from None
    return model.eval().requires_grad_(False)


def start_from_pretrained(model: nn.Module) -> Path | None:
    """Load ImageNet weights into all but the last layer, where torchvision's file lies in torch's cache. Nothing is fetched.

    Returns:
        The file, or None where there is none.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = sorted(folder.glob(PRETRAINED), key=os.path.getmtime)
    if not files:
        return None
    if not sha256_of(files[-1]).startswith(files[-1].stem.rpartition("-")[2]):
        raise KitError(f"{files[-1]} is damaged (its sha256 is not its name's). Remove it: without it the teacher begins from scratch.")
    weights = {name: tensor for name, tensor in read_weights(files[-1]).items() if not name.startswith("fc.")}
    model.load_state_dict(weights, strict=False)
    return files[-1]
