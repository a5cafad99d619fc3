"""The packed file, `student.kit`: what is handed in, small, checked by its digest, and read without a pickle.

    magic "KITPACK2" | sha256 of the rest (32 bytes) | header length (4 bytes, little endian) | header (JSON, deflated) | body

The header holds the config, the widths that rebuild the network, class names, notes, and how every tensor is stored. Batch norm is folded
first, so the body has the codes of each weight (quantize.py), entropy-coded one by one (entropy.py), then a stream for each kind of
number that the vectors are made of: scales, shifts, centres, biases. docs/packed-file.md has the layout and the sizes of a real student.

Version 1 kept batch norm's vectors in float32 and put everything under one LZMA: 82,251 bytes for a trained `record` at 8 bits, where
this one needs 61,665. A float16 offset a channel instead of the one-byte shift took 745 more, with no smaller error.
"""

import hashlib
import json
import lzma
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.compress.entropy import decode, encode
from kit.compress.fold import fold, fold_in_place, fold_shape
from kit.compress.lowrank import Ranks, factor_shape, parameters_at, ranks_in
from kit.compress.lsq import GRID, Stepped, trained_codes
from kit.compress.quantize import METHODS, Quantized, narrow, restore
from kit.config.schema import Config
from kit.errors import KitError, in_brief
from kit.files import write_durably
from kit.models.library import FromLibrary, shapes_on
from kit.models.students import build_student

MAGIC = b"KITPACK2"
KINDS = {"f2": "<f2", "f4": "<f4", "i1": "|i1", "u2": "<u2"}  # what a vector's numbers may be; u2: which channels a selection keeps
LONGEST_HEADER = 1 << 24  # bytes
LONGEST_VECTOR = 256  # of a tensor that is shorter itself: a codebook
COUNTER = "num_batches_tracked"  # of batch norm


@dataclass(frozen=True)
class Packed:
    """A packed student read back. student: folded. parameters: of the network as it was trained, batch norm's among them, which is never
    less than the folded one's and what a competition's limit is held against. notes: what its maker wrote beside it. ranks: of the layers
    that are factorised."""

    student: nn.Module
    config: Config
    classes: tuple[str, ...]
    notes: dict[str, Any]
    parameters: int
    ranks: Ranks


def pack(
    path: Path,
    student: nn.Module,
    config: Config,
    widths: tuple[int, ...],
    classes: tuple[str, ...],
    notes: dict[str, Any],
) -> int:
    """Write a student as `config.pack` says; returns the file's size in bytes. Equal weights and notes give equal bytes.

    Raises:
        KitError: a weight is NaN or infinite.
    """
    table, body, vectors = [], [], dict.fromkeys(KINDS, b"")
    trained = trained_codes(student)
    for name, values in stored_tensors(student, config.pack.method == "course"):
        if values.dtype == np.float32 and not np.isfinite(values).all():
            raise KitError(f"{name} holds NaN or an infinite number: the student's training broke. Give an earlier checkpoint of it.")
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape)}
        if values.dtype == np.float32 and (values.ndim >= 2 or config.pack.method == "course"):
            stored = trained.get(name) or METHODS[config.pack.method](values, config.pack.bits)
            coder, stream = encode(stored.codes.tobytes(), stored.bits)
            entry |= {"stored": stored.method, "bits": stored.bits, "coder": coder, "bytes": len(stream)}
            body.append(stream)
            its_vectors = stored.vectors
        else:
            entry["stored"], its_vectors = "vector", (narrow(values) if values.dtype == np.float32 else values,)
        entry["vectors"] = [[kind_of(vector), vector.size] for vector in its_vectors]
        table.append(entry)
        for vector in its_vectors:
            vectors[kind_of(vector)] += vector.astype(KINDS[kind_of(vector)]).tobytes()
    coded = {kind: encode(content) for kind, content in vectors.items() if content}
    fields = {
        "config": brief(config),
        "widths": widths,
        "classes": classes,
        "notes": notes,
        "folded": config.pack.method != "course",
        **({"ranks": ranks} if (ranks := ranks_in(student)) else {}),
        "tensors": table,
        "vectors": {kind: [coder, len(stream)] for kind, (coder, stream) in coded.items()},
    }
    header = deflate(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode())
    rest = len(header).to_bytes(4, "little") + header + b"".join(body + [stream for _, stream in coded.values()])
    write_durably(path, MAGIC + hashlib.sha256(rest).digest() + rest)
    return path.stat().st_size


def brief(config: Config) -> dict[str, Any]:
    """The config without the training settings that are the defaults of this version: 300 bytes less. What a prediction depends on is
    written out, whatever a later version's defaults may be."""
    telling = config.model_dump(mode="json", exclude_defaults=True)
    told = {name: section for name, section in telling.items() if name in ("teacher", "train", "prune", "quantize")}
    return config.model_dump(mode="json", exclude={"teacher", "train", "prune", "quantize"}) | told


def kind_of(vector: np.ndarray) -> str:
    return f"{vector.dtype.kind}{vector.itemsize}"


def stored_tensors(student: nn.Module, as_trained: bool) -> list[tuple[str, np.ndarray]]:
    """(name, float32, or uint16 for indices) of all that is stored. The course's files hold the network as it was trained; otherwise it is
    folded. Left out: batch norm's counter of batches, which nothing reads, and a library's tables of whole numbers, built by its name."""
    network = student if as_trained else fold(student)
    grids = {f"{name}.{key}" for name, layer in network.named_modules() if isinstance(layer, Stepped) for key in GRID}
    tables = {n for n, t in network.state_dict().items() if isinstance(network, FromLibrary) and not t.is_floating_point()}
    left_out = grids | tables
    tensors = {n: tensor.detach().cpu() for n, tensor in network.state_dict().items() if not n.endswith(COUNTER) and n not in left_out}
    return [(name, (t.float().numpy() if t.is_floating_point() else t.numpy().astype(np.uint16))) for name, t in tensors.items()]


def unpack(path: Path) -> Packed:
    """The folded student in a packed file, in evaluation mode on the CPU, channels last.

    Raises:
        KitError: the file is missing, of another kind or version, or damaged.
    """
    content = read_checked(path)
    try:
        header, body = split(content)
        config, classes = Config.model_validate(header["config"]), tuple(header["classes"])
        with torch.device(shapes_on(config.student.name)):  # drawing first weights would take longer than reading the real ones
            student = build_student(config.student.name, header["widths"], len(classes)).eval()
            ranks = {name: tuple(its_ranks) for name, its_ranks in header.get("ranks", {}).items()}
            parameters = parameters_at(student, ranks)
            student = factor_shape(fold_shape(student) if header["folded"] else student, ranks)
        stored = {entry["name"] for entry in header["tensors"]}
        whole = {name: t for name, t in student.state_dict().items() if name not in stored and not t.is_floating_point()}
        counters = {name: torch.zeros_like(t, device="cpu") if t.is_meta else t for name, t in whole.items()}
        refuse_other_shapes(header["tensors"], {name: tensor.shape for name, tensor in student.state_dict().items()})
        student.load_state_dict(read_tensors(header, body) | counters, assign=True)
        student = fold_in_place(student).to(memory_format=torch.channels_last)
        return Packed(student, config, classes, dict(header["notes"]), parameters, ranks)
    except (KitError, AttributeError, LookupError, TypeError, ValueError, OverflowError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise KitError(f"{path} is whole, but no student that this version of the kit can rebuild ({in_brief(error)}).") from None


def refuse_other_shapes(table: list[dict[str, Any]], shapes: dict[str, torch.Size]) -> None:
    """Before room is made for what a table says: it has the network's own shapes, and no vector longer than its tensor or a codebook.

    Raises:
        ValueError: it hasn't.
    """
    for entry in table:
        shape, counts = shapes[entry["name"]], [count for _, count in entry["vectors"]]
        longest = max(math.prod(shape), LONGEST_VECTOR)
        fits = all(0 <= count <= longest for count in counts) and entry.get("bits", 8) >= 1
        if tuple(entry["shape"]) != tuple(shape) or not fits:
            raise ValueError(f"{entry['name']} is not as the network has it")


def is_packed(path: Path) -> bool:
    """Whether it begins as a packed student of any version does; False where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(7) == MAGIC[:7]
    except OSError:
        return False


def read_checked(path: Path) -> bytes:
    """What comes after the digest, after it was found right."""
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
    return rest


def split(rest: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, body)."""
    start = 4 + int.from_bytes(rest[:4], "little")
    return json.loads(zlib.decompressobj(-zlib.MAX_WBITS).decompress(rest[4:start], LONGEST_HEADER)), rest[start:]


def deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return compressor.compress(content) + compressor.flush()


def read_tensors(header: dict[str, Any], body: bytes) -> dict[str, Tensor]:
    """The tensors' values by name, float32.

    Raises:
        ValueError and others: the table does not fit the body.
    """
    table, at = header["tensors"], 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return body[at - count : at]

    streams = {entry["name"]: take(entry["bytes"]) for entry in table if entry["stored"] != "vector"}
    vectors = {kind: read_vectors(kind, coder, take(length), table) for kind, (coder, length) in header["vectors"].items()}
    tensors = {}
    for entry in table:
        shape, its_vectors = tuple(entry["shape"]), tuple(next(vectors[kind]) for kind, _ in entry["vectors"])
        if entry["stored"] == "vector":
            values = its_vectors[0].astype(np.int64 if its_vectors[0].dtype.kind == "u" else np.float32).reshape(shape)
        else:
            codes = decode(entry["coder"], streams[entry["name"]], math.prod(shape), entry["bits"])
            grid = np.frombuffer(codes, np.uint8).reshape(shape)
            values = restore(Quantized(entry["stored"], entry["bits"], grid, its_vectors))
        tensors[entry["name"]] = torch.from_numpy(values)
    return tensors


def read_vectors(kind: str, coder: str, stream: bytes, table: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    """The vectors of one kind of number, in the order of the table."""
    counts = [count for entry in table for its_kind, count in entry["vectors"] if its_kind == kind]
    numbers = np.frombuffer(decode(coder, stream, sum(counts) * int(kind[1])), KINDS[kind])
    return iter(np.split(numbers, np.cumsum(counts)[:-1]))
