"""The teacher: a ResNet-18 from torchvision or timm, from a file, from pretrained weights on disk, or new.

Whatever it comes from, it is weights only: no pickle from outside is executed.
"""

import os
import re
import zipfile
import zlib
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from kit.errors import KitError
from kit.files import sha256_of

KEYS = ("state_dict", "model", "model_state_dict")  # Lightning's and timm's, torchvision's, that of torch's tutorial
WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")  # DataParallel, torch.compile, a Lightning module
PRETRAINED = "resnet18-*.pth"  # torchvision's file names carry the first digits of the file's sha256


def build_teacher(arch: str, classes: int) -> nn.Module:
    """A ResNet-18 with new weights. Both libraries give the same tensor names, so either loads the other's files."""
    library, name = arch.split("/")
    if library == "timm":
        return timm.create_model(name, pretrained=False, num_classes=classes)
    return torchvision.models.get_model(name, weights=None, num_classes=classes)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of the usual kinds: bare, or under a key that is one of KEYS, with or without a wrapper's prefix.

    Raises:
        KitError: the file is missing, damaged, a whole pickled model, or holds no state dict.
    """
    refuse_damaged(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise KitError(f"There is no teacher file {file}. Without --teacher the run trains its own.") from None
    except Exception as error:  # bytes that are no checkpoint fail in the restricted unpickler in any way they like
        raise KitError(
            f"{file} is no checkpoint that can be read safely ({(str(error).splitlines() or ['?'])[0].partition('. ')[0][:120]}). "
            "A state dict is wanted (torch.save(model.state_dict(), …)); a whole pickled model would run code and is not loaded."
        ) from None
    for key in KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise KitError(f"{file} holds no state dict. Save the weights with torch.save(model.state_dict(), …).")
    bare = {WRAPPERS.sub("", name): tensor for name, tensor in content.items()}
    return bare if len(bare) == len(content) else content  # two networks in one file keep their names


def refuse_damaged(file: Path) -> None:
    """torch.load compares no checksum and would take a flipped bit for a weight; the zip that torch.save writes has one for each part
    (0 where it was told to write none).

    Raises:
        KitError: a part's CRC-32 is wrong.
    """
    if not zipfile.is_zipfile(file):
        return  # of the time before zips, or no checkpoint at all
    try:
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                if part.CRC:
                    archive.read(part)  # compares it
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, zlib.error) as error:
        raise KitError(f"{file} is damaged ({error}). Copy or download it again.") from None


def load_teacher(file: Path, arch: str, classes: int | None) -> nn.Module:
    """The teacher in a file, frozen and in evaluation mode: in train mode a mere look through it would move its BN statistics.

    classes: how many outputs it must have, None for as many as it has.

    Raises:
        KitError: it has another number of outputs, or another architecture's tensors.
    """
    weights = read_weights(file)
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
        first = " ".join(str(error).split())[:200].rstrip(".")
        raise KitError(
            f"{file} is no {arch}: {first}. Give a ResNet-18's state dict, its names as torchvision has them; what the kit has trained "
            "teaches by its run's folder or its student.kit."
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
