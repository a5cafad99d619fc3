"""The packed file, `student.kit`: what is handed in, small, checked by its digest, and read without a pickle.

    magic "KITPACK1" | sha256 of the rest (32 bytes) | header length (4 bytes, little endian) | header (JSON) | body (LZMA)

The header holds the config, the widths that rebuild the network, class names and, for every tensor, its shape and how it is stored.
The body is the tensors' bytes one after another. Weights with two or more dimensions are uint8 with a float16 scale and offset per
output channel (per tensor costs more accuracy and saves 20 bytes); the rest, batch norm's vectors and biases, stay float32: they are
few, and the affine codes of a channel lean on them.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.config.schema import Config
from kit.errors import KitError
from kit.files import write_durably
from kit.models.students import build_student

MAGIC = b"KITPACK1"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9}]


@dataclass(frozen=True)
class Packed:
    """A packed student read back. notes: what its maker wrote beside it, such as the validation accuracy."""

    student: nn.Module
    config: Config
    classes: tuple[str, ...]
    notes: dict[str, Any]


def quantize(weight: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 codes and float16 (scale, offset) of every output channel: weight ≈ codes · scale + offset.

    The codes are rounded against the float16 values that the reader will use. A constant channel has scale 0 and is exact to
    float16.
    """
    rows = weight.detach().cpu().float().flatten(1).numpy()
    offset = rows.min(axis=1, keepdims=True).astype(np.float16)
    scale = ((rows.max(axis=1, keepdims=True) - offset.astype(np.float32)) / 255).astype(np.float16)
    steps = np.where(scale == 0, 1, scale).astype(np.float32)
    codes = np.rint((rows - offset.astype(np.float32)) / steps).clip(0, 255).astype(np.uint8)
    return codes.reshape(weight.shape), scale[:, 0], offset[:, 0]


def dequantize(codes: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    shape = (-1,) + (1,) * (codes.ndim - 1)
    return codes.astype(np.float32) * scale.astype(np.float32).reshape(shape) + offset.astype(np.float32).reshape(shape)


def pack(path: Path, student: nn.Module, config: Config, widths: tuple[int, ...], classes: tuple[str, ...], notes: dict[str, Any]) -> int:
    """Write a student; returns the file's size in bytes. Equal weights and notes give equal bytes."""
    tensors, parts = [], []
    for name, tensor in student.state_dict().items():
        if tensor.ndim >= 2:
            arrays, stored = quantize(tensor), "uint8"
        elif tensor.is_floating_point():
            arrays, stored = (tensor.detach().cpu().float().numpy(),), "float32"
        else:
            continue  # batch norm's counter of batches: nothing reads it
        tensors.append({"name": name, "shape": list(tensor.shape), "stored": stored})
        parts += [array.tobytes() for array in arrays]
    fields = {"config": config.model_dump(mode="json"), "widths": widths, "classes": classes, "notes": notes, "tensors": tensors}
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    body = lzma.compress(b"".join(parts), lzma.FORMAT_RAW, filters=FILTERS)
    rest = len(header).to_bytes(4, "little") + header + body
    write_durably(path, MAGIC + hashlib.sha256(rest).digest() + rest)
    return path.stat().st_size


def unpack(path: Path) -> Packed:
    """The student in a packed file, in evaluation mode on the CPU.

    Raises:
        KitError: the file is missing, of another kind or version, or damaged.
    """
    header, body = read_checked(path)
    try:
        config = Config.model_validate(header["config"])
        student = build_student(config.student.name, header["widths"], len(header["classes"]))
        counters = {name: t for name, t in student.state_dict().items() if not t.is_floating_point()}
        student.load_state_dict(read_tensors(header["tensors"], body) | counters)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise KitError(f"{path} is whole, but no student that this version of the kit can rebuild ({reason}).") from None
    return Packed(student.eval(), config, tuple(header["classes"]), header["notes"])


def read_checked(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and unpacked body, after the digest was found right."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KitError(f"{path} can't be read: {error.strerror}. Give the student.kit of a run.") from None
    if content[: len(MAGIC)] != MAGIC:
        kind = "a packed student of another version" if content[:7] == MAGIC[:7] else "no packed student"
        raise KitError(f"{path} is {kind}. Give the student.kit of a run, made by this version of the kit.")
    digest, rest = content[8:40], content[40:]
    if hashlib.sha256(rest).digest() != digest:
        raise KitError(
            f"{path} is damaged: its content does not have the sha256 that it was written with. Copy it again, or run `kit run` again."
        )
    start = 4 + int.from_bytes(rest[:4], "little")
    return json.loads(rest[4:start]), lzma.decompress(rest[start:], lzma.FORMAT_RAW, filters=FILTERS)


def read_tensors(table: list[dict[str, Any]], body: bytes) -> dict[str, Tensor]:
    at, tensors = 0, {}

    def take(kind: type, count: int) -> np.ndarray:
        nonlocal at
        array = np.frombuffer(body, kind, count, at)
        at += array.nbytes
        return array

    for entry in table:
        shape = tuple(entry["shape"])
        count = int(np.prod(shape))
        if entry["stored"] == "uint8":
            values = dequantize(take(np.uint8, count).reshape(shape), take(np.float16, shape[0]), take(np.float16, shape[0]))
        else:
            values = take(np.float32, count).reshape(shape).copy()
        tensors[entry["name"]] = torch.from_numpy(values)
    return tensors
