"""`kit inspect`: what is in a student.kit, in a run's checkpoint or in another program's file of weights, layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from kit.compress.pack import is_packed, read_checked, split, unpack
from kit.models.cost import count_macs
from kit.models.library import refuse_unusable
from kit.models.recognise import recognise
from kit.models.students import count_parameters
from kit.names import STUDENT
from kit.stages.weights import read_weights_file

AVERAGES = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm; other buffers are whole numbers
WHOLE = "u2"  # kind of a packed vector of them


@dataclass(frozen=True)
class Layer:
    """A module's tensors in a file. shape: of its weight. macs: multiplications of one photo, None where the network is not known.
    stored: how, in words. size: bytes, of what can be told apart."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    macs: int | None
    stored: str
    size: int


def inspect(file: Path, image_size: int | None) -> Iterator[Table | str]:
    """A table and a few lines.

    Args:
        file: or a run's folder, whose packed student is meant.
        image_size: side of the photo that multiplications are counted for; None: the student's own, else 224.
    """
    file = file / STUDENT if file.is_dir() else file
    yield from inspect_packed(file, image_size) if is_packed(file) else inspect_foreign(file, image_size or 224)


def inspect_packed(file: Path, image_size: int | None) -> Iterator[Table | str]:
    packed, (header, body) = unpack(file), split(read_checked(file))
    size, total, config = image_size or packed.config.data.image_size, file.stat().st_size, packed.config
    refuse_unusable(config.student.name, packed.student, size)
    layers = packed_layers(header["tensors"], count_macs(packed.student, size))
    layers += [Layer(f"{kind} vectors", (), 0, 0, coder, length) for kind, (coder, length) in header["vectors"].items()]
    layers.append(Layer("header and digest", (), 0, 0, "deflated JSON", total - len(body)))
    yield as_table(layers)
    yield (
        f"{file}: student {config.student.name}, widths {header['widths']}, {len(packed.classes)} classes, recipe {config.recipe}, "
        f"{packed.parameters:,} parameters as trained, {count_parameters(packed.student):,} folded, {total:,} bytes, "
        f"{sum(layer.macs or 0 for layer in layers) / 1e6:.2f} M multiplications at {size} px"
    )


def packed_layers(table: list[dict[str, Any]], macs: dict[str, int]) -> list[Layer]:
    layers = []
    for name, entries in by_layer({entry["name"]: entry for entry in table}).items():
        coded = [entry for entry in entries.values() if entry["stored"] != "vector"]
        words = ", ".join(dict.fromkeys(map(spelled, coded))) or "vector"
        learnt = [entry for key, entry in entries.items() if key not in AVERAGES and entry["vectors"][0][0] != WHOLE]
        parameters = sum(torch.Size(entry["shape"]).numel() for entry in learnt)
        shape = tuple(entries["weight"]["shape"]) if "weight" in entries else ()
        layers.append(Layer(name, shape, parameters, macs.get(name, 0), words, sum(entry["bytes"] for entry in coded)))
    return layers


def spelled(entry: dict[str, Any]) -> str:
    """How a tensor's weights are stored. What is half precision has its numbers in a vector, and codes that say nothing."""
    if entry["stored"] == "half":
        kind = entry["vectors"][0][0]
        return f"half {8 * int(kind[1])} bit, {kind} vectors"
    return f"{entry['stored']} {entry['bits']} bit, {entry['coder']}"


def inspect_foreign(file: Path, image_size: int) -> Iterator[Table | str]:
    foreign = read_weights_file(file)
    known, macs = list(recognise(foreign.weights)), None
    if known:
        refuse_unusable(*known[0], image_size)
        macs = count_macs(known[0][1], image_size)
    names = [name for name, _ in known] or ["unknown network"]
    called = " or ".join(names) + (" (one shape)" if len(names) > 1 else "")
    layers = []
    order = known[0][1].state_dict() if known else foreign.weights  # a file may hold its tensors in any
    for name, tensors in by_layer({name: foreign.weights[name] for name in order}).items():
        kinds = {key: foreign.bits[f"{name}.{key}" if name else key] for key in tensors}
        words = ", ".join(f"{bits} bit" for bits in dict.fromkeys(kinds.values()))
        size = sum(tensor.numel() * kinds[key] // 8 for key, tensor in tensors.items())
        parameters = sum(tensor.numel() for key, tensor in tensors.items() if key not in AVERAGES and tensor.is_floating_point())
        shape = tuple(tensors["weight"].shape) if "weight" in tensors else ()
        layers.append(Layer(name, shape, parameters, None if macs is None else macs.get(name, 0), words, size))
    yield as_table(layers)
    total = f"{macs.total() / 1e6:.2f} M multiplications at {image_size} px" if macs else "no network of the kit, so none is run"
    yield (
        f"{file}: {foreign.kind}, {called}, {sum(layer.parameters for layer in layers):,} parameters, "
        f"{file.stat().st_size:,} bytes, {total}"
    )


def by_layer(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"a.weight": x, "a.bias": y} → {"a": {"weight": x, "bias": y}}, in order."""
    layers: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        layer, _, key = name.rpartition(".")
        layers.setdefault(layer, {})[key] = value
    return layers


def as_table(layers: list[Layer]) -> Table:
    table = Table("layer", "weight", "parameters", "MACs", "stored", "bytes", "bits each", show_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("layer", "weight", "stored") else "right"
    for layer in layers:
        each = f"{layer.size * 8 / layer.parameters:.2f}" if layer.parameters and layer.size else ""
        shape = "×".join(map(str, layer.shape))
        macs = "?" if layer.macs is None else f"{layer.macs:,}" if layer.macs else ""
        name, parameters = escape(layer.name), f"{layer.parameters:,}" if layer.parameters else ""
        table.add_row(name, shape, parameters, macs, layer.stored, f"{layer.size:,}", each)
    table.add_section()
    number, size, whole = sum(x.parameters for x in layers), sum(x.size for x in layers), sum(x.macs or 0 for x in layers)
    table.add_row("in all", "", f"{number:,}", f"{whole:,}" if whole else "?", "", f"{size:,}", f"{size * 8 / max(number, 1):.2f}")
    return table
