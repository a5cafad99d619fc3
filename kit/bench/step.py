"""`kit bench step`: a step of distillation with the live feed and with one frozen batch, its parts apart, and the device's floor.

A step's time does not depend on what the weights are, so teacher and student are new ones. A recipe of labels alone has no teacher.
"""

import copy
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.bench.clock import Way, always, counted, measure
from kit.bench.material import classes_of, decoded, memory, training_photos
from kit.bench.outcome import Outcome, Row, milliseconds, number
from kit.bench.roofline import Rates, floor, layers_of, measure_rates
from kit.config.schema import Config
from kit.data.loader import Batches
from kit.data.order import Order
from kit.device import Device
from kit.distill.objective import Objective
from kit.errors import KitError
from kit.fuse import fused, with_compile_decided
from kit.models.look import hooked
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.models.widths import widths_for
from kit.stages.photos import cached_batches
from kit.stages.student import prepare, stem_shared
from kit.stages.teacher import panel_of, ready, wants_teacher
from kit.train.gradients import WARM, Backward, Learn, Loss, Recorded
from kit.train.loop import take_step
from kit.train.state import begin
from kit.world import World

FROZEN, LIVE = "step, one frozen batch", "step, live feed"
STEPS = 1 << 30  # of the plan that the learning rate is read from


@dataclass(frozen=True)
class Part:
    """Of a step, timed apart. floor: the least seconds that its arithmetic takes at the rates of its type; None: next to nothing."""

    way: Way
    dtype: torch.dtype
    floor: Callable[[Rates], float] | None = None


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    split, where, train, side = training_photos(data, config), device.device, config.train, config.data.image_size
    torch.manual_seed(train.seed)
    student = build_student(config.student.name, widths_for(config.student, classes_of(split)), classes_of(split))
    teachers = [build_teacher(config.teacher.arch, classes_of(split)).eval().requires_grad_(False)] if wants_teacher(config) else []
    for teacher in teachers:
        prepare(student, teacher, config)
    panel = panel_of(teachers, config, device)
    order, student = Order(len(split), train.batch_size, train.seed), student.to(where)
    feed = cached_batches(decoded(split, config, cache), order, config.data, config.data.augment, where)
    fast = Objective(student, panel, config.distill, side, fuse=fused)
    plain = copy.copy(fast)  # of the same networks and adapters
    plain.weigh = plain.compute
    compiled = bool(with_compile_decided(train, len(split), side, where, World()).compile)
    usual, other = (fast, plain) if compiled else (plain, fast)
    state = begin(student, fast.adapters, train, STEPS // train.epochs, device)
    images, labels = feed(0)

    def step(learn: Learn, batches: Batches = lambda _: (images, labels)) -> None:
        take_step(state, learn, batches, World())

    def ce(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(student(images).float(), labels)

    look, loss = (fused(panel.forward), fused(ce)) if compiled else (panel.forward, ce)

    def learner(loss: Loss, prepare: Callable[[float], Hashable], updates: bool = True) -> tuple[Backward, Learn]:
        launched = Backward(loss, state.optimizer, state.scaler, device, train.clip_norm)
        return launched, Recorded(launched, prepare, print, True, updates) if where.type == "cuda" else launched

    (launched, whole), (_, second) = learner(usual, usual.prepare), learner(other, other.prepare)
    _, alone = learner(lambda images, labels, progress: (loss(images, labels), {}), lambda progress: None, updates=False)
    learns = device.autocast or torch.float32
    warped = images.numel() * images.itemsize + len(images) * config.data.cache_side**2 * 3  # bytes
    parts = [Part(Way("feed", "order, draws, squares, warp", counted(feed)), learns, lambda rates: warped / rates.bandwidth)]
    if config.taught:
        says = f"a look, {str(device.teacher).removeprefix('torch.')}, batch norm folded"
        folded = ready(teachers[0], device)
        looks = next(folded.parameters()).dtype
        seen = panel.sized(images).to(looks)
        parts.append(Part(Way("teacher", says, always(lambda: look(images))), looks, of_layers(folded, seen, looks)))
    says = "forward and backward of cross entropy"
    parts.append(Part(Way("student", says, always(lambda: alone(images, labels, 0))), learns, of_layers(student, images, learns)))
    parts.append(Part(Way("optimiser", f"{train.optimizer} over what the student learnt", always(launched.update)), learns))
    *others, last = (part.way.name for part in parts[1:])
    ways = [
        Way(LIVE, f"{', '.join(others)} and {last} on a new batch each", always(lambda: step(whole, feed))),
        Way(FROZEN, "the same on one batch that is there", always(lambda: step(whole))),
        *(part.way for part in parts),
    ]
    if where.type == "cuda":
        ways.append(Way("step, kernel by kernel", "one frozen batch, no CUDA graph", always(lambda: step(launched))))
        torch.cuda.reset_peak_memory_stats(where)
    with hooked(fast.handles), stem_shared(student, teachers, panel, device):
        for _ in range(WARM + 2):  # recorded from the last but one on; the adapters' gradients are there from the first
            step(whole, feed)
        taken = peak(where)
        try:
            for _ in range(WARM + 2):
                step(second)
        except KitError as error:  # no compiler here
            print(error)
        else:
            word, setting = ("not compiled", "false") if compiled else ("compiled", "true")
            ways.append(Way(f"step, {word}", f"one frozen batch, train.compile={setting}", always(lambda: step(second))))
        rows = milliseconds(measure(ways, rounds, where, seconds))
    what = f"A step of {config.recipe}: {train.batch_size} photos at {side} px{', compiled' if compiled else ''}"
    share = {} if where.type == "cuda" else shares(rows)  # a GPU's feed works while the step does
    facts = share | taken | floors(parts, where, rows)
    return Outcome("step", what, "ms", FROZEN, rows, facts)


def shares(rows: list[Row]) -> dict[str, str]:
    """How much of a step is the feed: round by round, the median."""
    values = {row.way: row.values for row in rows}
    part = statistics.median(feed / live for feed, live in zip(values["feed"], values[LIVE], strict=True))
    return {"the feed's share of a step": f"{part:.1%}"}


def peak(where: torch.device) -> dict[str, str]:
    if where.type == "cuda":
        return {"peak memory of a step": f"{torch.cuda.max_memory_allocated(where) / 1e6:,.0f} MB on the GPU, the photos among them"}
    return {"peak memory of a step": f"{memory('VmHWM'):,.0f} MB, the whole process with torch and the mapped photos"}


def of_layers(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[Rates], float]:
    """The floor of a network's pass; it is looked through when that is asked for, after the steps."""
    return lambda rates: floor(layers_of(network.eval(), images), rates, dtype)


def floors(parts: Sequence[Part], where: torch.device, rows: list[Row]) -> dict[str, str]:
    """The least that the arithmetic of a step could take here, and how far from it the step is."""
    rates = {dtype: measure_rates(where, dtype) for dtype in dict.fromkeys(part.dtype for part in parts)}
    least = {part.way.name: part.floor(rates[part.dtype]) for part in parts if part.floor}
    whole = 1000 * sum(least.values())
    medians = {row.way: statistics.median(row.values) for row in rows}
    apart = ", ".join(f"{name} {number(1000 * seconds)}" for name, seconds in least.items())
    measured = "; ".join(
        f"{str(dtype).removeprefix('torch.')} {rate.flops / 1e12:.2f} TFLOP/s, {rate.bandwidth / 1e9:,.0f} GB/s"
        for dtype, rate in rates.items()
    )
    return {
        "measured here": measured,
        "floor of a step by these": f"{number(whole)} ms ({apart}); the live step takes {medians[LIVE] / whole:.1f} × as long",
    }
