"""Files of weights as torch and safetensors write them. No pickle from outside is executed."""

import errno
import re
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from kit.device import shortages_named
from kit.errors import KitError, in_brief

KEYS = ("state_dict", "model", "model_state_dict")  # Lightning's and timm's, torchvision's, that of torch's tutorial
WRAPPERS = re.compile(r"^((module|_orig_mod|model)\.)+")  # DataParallel, torch.compile, a Lightning module


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or a checkpoint of the usual kinds: bare, or under a key that is one of KEYS, with or without a
    wrapper's prefix.

    Raises:
        KitError: the file can't be read, is damaged, a whole pickled model, or holds no state dict.
        FileNotFoundError: there is none; what it was to be, only the caller knows.
    """
    try:
        refuse_damaged(file)
        with shortages_named():
            if is_safetensors(file):
                content = dict(sorted(load(file.read_bytes()).items()))  # it gives another order each time
            else:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, KitError):
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # a damaged table's way to a place before the file's beginning, and no disk's failure
            raise KitError(f"{file} is damaged ({error}). Copy or download it again.") from None
        raise KitError(f"{file} can't be read ({error.strerror}). Bring its disk or mount back, or mend its permissions.") from None
    except SafetensorError as error:
        raise KitError(f"{file} is no whole safetensors file ({error}). Copy it again.") from None
    except Exception as error:  # bytes that are no checkpoint fail in the restricted unpickler in any way they like
        raise KitError(
            f"{file} is no checkpoint that can be read safely ({in_brief(error, 120).partition('. ')[0]}). "
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
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, zlib.error) as error:
        raise KitError(f"{file} is damaged ({error}). Copy or download it again.") from None


def is_safetensors(file: Path) -> bool:
    """Whether the file begins as that format does: eight bytes with the length of a JSON object, and that."""
    with open(file, "rb") as opened:
        return opened.read(10)[8:] == b'{"'
