"""`kit export`: a run's student, or any file of weights, in another program's format."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kit import predict
from kit.augment.views import evaluation_views
from kit.compress.fold import fold
from kit.compress.foreign import write_foreign
from kit.compress.onnx import runner, to_int8, write_onnx
from kit.config.choices import Format
from kit.config.schema import Config
from kit.console import counted
from kit.data.cache import Photos
from kit.data.order import Order
from kit.data.squares import as_tensor
from kit.errors import KitError
from kit.files import write_durably
from kit.models.look import classifier
from kit.stages.known import labelled_for
from kit.stages.weights import Found, find_weights, understand
from kit.target import refuse_overwriting

GRAPHS = ("onnx", "onnx-int8")  # formats of the network itself; the others are of its weights
CALIBRATION = 4  # batches of training photos, seen as they are predicted
BATCH = 128


def export(
    source: Path,
    form: Format,
    out: Path,
    data: Path | None,
    cache: Path,
    name: str | None,
    assignments: list[str],
) -> Iterator[str]:
    """Write the weights of a run's folder or a file, or the graph of its student; yields what to say.

    Raises:
        KitError: there are none, or `out` may not be written over.
    """
    found = find_weights(source)
    refuse_overwriting(out, source)
    if form in GRAPHS:
        yield from export_graph(source, found, form, out, data, cache, name, assignments)
    else:
        weights = found.weights
        if name or assignments or (found.config and found.config.predict.logit_adjustment):
            student, config = understand(found, name, assignments)
            weights = student.state_dict() if config.predict.logit_adjustment else weights
        size = write_foreign(out, form, weights)
        yield f"{out}: {form}, {counted(len(found.weights), 'tensor')} of {found.origin}, {size:,} bytes"


def export_graph(
    source: Path, found: Found, form: str, out: Path, data: Path | None, cache: Path, name: str | None, assignments: list[str]
) -> Iterator[str]:
    """The folded student as an ONNX graph; in int8 with what that costs and gains on validation."""
    student, config = understand(found, name, assignments)
    graph = write_onnx(fold(student), config.data.image_size)
    if form == "onnx":
        write_durably(out, graph)
        yield f"{out}: ONNX in float32, {config.student.name} at {config.data.image_size} px, {len(graph):,} bytes"
        return
    if data is None:
        raise KitError("--format onnx-int8 needs photos to measure activations with: give --data.")
    photos = labelled_for(source, found.classes or classifier(student).out_features, data, config, cache)
    order = Order(len(photos.training), BATCH, config.train.seed)
    rows = [order.rows(step) for step in range(min(CALIBRATION, order.steps_per_epoch))]
    small = to_int8(graph, (views_of(photos.training, part, config) for part in rows))
    write_durably(out, small)
    yield f"{out}: ONNX in int8, {config.student.name} at {config.data.image_size} px, {len(small):,} bytes"
    for kind, each in (("float32", graph), ("int8", small)):
        figures = measured(runner(each, torch.get_num_threads()), photos.validation, config)
        yield f"{kind}: {figures} by ONNX Runtime on {counted(torch.get_num_threads(), 'thread')}"


def views_of(photos: Photos, rows: Tensor, config: Config) -> Tensor:
    return evaluation_views(as_tensor(photos.pixels)[rows], torch.from_numpy(photos.sizes)[rows], config.data)


def measured(run: Callable[[Tensor], Tensor], photos: Photos, config: Config) -> str:
    """Accuracy, and images per second of the graph alone."""
    right, seconds = 0, 0.0
    for rows in torch.arange(len(photos)).split(BATCH):
        views = views_of(photos, rows, config)
        start = time.perf_counter()
        answer = run(views)
        seconds += time.perf_counter() - start
        right += int((answer.argmax(1).numpy() == photos.labels[rows.numpy()]).sum())
    return f"validation accuracy {right / len(photos):.4f}{predict.seen(config)}, {len(photos) / seconds:.0f} images/s"
