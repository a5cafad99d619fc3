"""Other programs' files of weights: torch's in all its kinds, HW7's 16- and 8-bit pickles, safetensors.

A pickle is a program. torch's own are read with weights_only; HW7's with an unpickler that knows numpy arrays alone and does not even
let numpy build them: the four names that such a pickle calls stand for the small classes below, which only take bytes and shapes, and
any other name ends the reading.
"""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from kit.compress.quantize import METHODS, Quantized, restore
from kit.errors import KitError, in_brief
from kit.files import write_durably
from kit.models.weights import is_safetensors, read_weights

TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # how torch's files began before they were zips, after two bytes of protocol
NUMBERS = ("f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8")
PROTOCOL = 3  # of the course's pickles; 2 would write bytes as text that is called back into bytes


@dataclass(frozen=True)
class Foreign:
    """kind: of the file, in words. weights: float32, counters int64. bits: that each tensor's numbers have in the file."""

    kind: str
    weights: dict[str, Tensor]
    bits: dict[str, int]


def read_foreign(file: Path) -> Foreign:
    """The state dict in a file of another program, whatever device it was written on.

    Raises:
        KitError: the file is missing, damaged, a whole pickled model, or holds no state dict.
    """
    try:
        with open(file, "rb") as opened:
            head = opened.read(16)
    except OSError as error:
        raise KitError(f"{file} can't be read: {error.strerror}. Give a file of weights.") from None
    if head[:1] == b"\x80" and head[2:14] != TORCH_MAGIC:
        return read_course_pickle(file)
    return from_torch("safetensors" if is_safetensors(file) else "torch state dict", read_weights(file))


def from_torch(kind: str, weights: Mapping[str, Tensor]) -> Foreign:
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return Foreign(kind, wide, {name: tensor.element_size() * 8 for name, tensor in weights.items()})


# ── HW7's pickles ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NumberType:
    """Stands for numpy.dtype: one of NUMBERS, and how its bytes are ordered."""

    def __init__(self, name: str, *_: Any):
        if name not in NUMBERS:
            raise pickle.UnpicklingError(f"an array of {name!r}, which are no numbers")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", "|": "<", ">": ">"}[state[1]]

    def read(self, content: bytes) -> np.ndarray:
        return np.frombuffer(content, self.order + self.name)


class Array:
    """Stands for what numpy's `_reconstruct` returns: filled by its state, and without `values` until then."""

    values: np.ndarray

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.values = kind.read(content).reshape(shape, order="F" if fortran else "C")


def scalar(kind: NumberType, content: bytes) -> float:
    """Stands for numpy's `scalar`."""
    return kind.read(content).item()


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {("numpy", "ndarray"): Array, ("numpy", "dtype"): NumberType}
for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2 and since
    KNOWN |= {(module, "_reconstruct"): Array, (module, "scalar"): scalar}


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, and only numbers in numpy arrays are read")
        return KNOWN[module, name]


def read_course_pickle(file: Path) -> Foreign:
    """HW7's dictionary: name → float16 array, or (min, max, uint8 array), or a number."""
    try:
        content = Unpickler(io.BytesIO(file.read_bytes())).load()
    except Exception as error:  # bytes that are no pickle fail in any way they like
        raise KitError(
            f"{file} is no pickle of numpy arrays ({in_brief(error)}). A whole pickled model would run code "
            "and is not loaded: save its state dict with torch.save(model.state_dict(), …)."
        ) from None
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise KitError(f"{file} holds no weights by name. HW7's pickles hold a dictionary of arrays.")
    weights, bits = {}, {}
    for name, value in content.items():
        try:
            weights[name], bits[name] = course_tensor(value)
        except (AttributeError, TypeError, ValueError) as error:
            raise KitError(f"{file}: {name!r} is neither an array nor (min, max, codes) nor a number ({error}).") from None
    return Foreign(f"HW7 pickle, {min(bits.values())} bit", weights, bits)


def course_tensor(value: Any) -> tuple[Tensor, int]:
    """(tensor, bits of its numbers). A bare number is batch norm's counter."""
    if isinstance(value, tuple):
        low, high, codes = value
        if codes.values.dtype != np.uint8:
            raise ValueError(f"codes of {codes.values.dtype}")
        return torch.from_numpy(restore(Quantized("course", 8, codes.values, (np.array([low, high], np.float64),)))), 8
    if isinstance(value, Array):
        return torch.from_numpy(value.values.astype(np.float32)), value.values.itemsize * 8
    return torch.tensor(int(value)), 64


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_ckpt(weights: Mapping[str, Tensor]) -> bytes:
    """torch.save of the state dict: what the course and the hand-ins since then call .ckpt, .pt or .bin."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, buffer)
    return buffer.getvalue()


def write_course_16(weights: Mapping[str, Tensor]) -> bytes:
    """HW7's 16 bits: float16 arrays.

    Raises:
        KitError: a number is too large for float16.
    """
    arrays = {name: tensor.detach().cpu().double().numpy() for name, tensor in weights.items()}
    for name, array in arrays.items():
        if array.ndim and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            raise KitError(f"{name} holds {np.abs(array).max():,.0f}, more than 16 bits can: choose --format ckpt or hw7-8bit.")
    return course_pickle({name: a.astype(np.float16) if a.ndim else np.float64(a) for name, a in arrays.items()})


def write_course_8(weights: Mapping[str, Tensor]) -> bytes:
    """HW7's 8 bits: (min, max, uint8 codes). A constant tensor, which the course would divide by zero for, decodes to its constant."""
    entries: dict[str, Any] = {}
    for name, tensor in weights.items():
        values = tensor.detach().cpu().double().numpy()
        entries[name] = (values.min(), values.max(), METHODS["course"](values, 8).codes) if values.ndim else np.float64(values)
    return course_pickle(entries)


def course_pickle(entries: dict[str, Any]) -> bytes:
    """As numpy before 2 wrote it, which both read: the newer name of its module is unknown to the older."""
    return pickle.dumps(entries, PROTOCOL).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_safetensors(weights: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})


WRITERS: dict[str, Callable[[Mapping[str, Tensor]], bytes]] = {
    "ckpt": write_ckpt,
    "hw7-8bit": write_course_8,
    "hw7-16bit": write_course_16,
    "safetensors": write_safetensors,
}


def write_foreign(file: Path, form: str, weights: Mapping[str, Tensor]) -> int:
    """Write a state dict as another program's file, by a name of WRITERS; returns its size in bytes.

    Raises:
        KitError: a weight is NaN or infinite.
    """
    if broken := next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None):
        raise KitError(f"{broken} holds NaN or an infinite number: the student's training broke. Give an earlier checkpoint of it.")
    write_durably(file, WRITERS[form](weights))
    return file.stat().st_size
