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
from kit.data.order import Order
from kit.device import Device
from kit.distill.objective import Objective
from kit.errors import KitError
from kit.fuse import fused, with_compile_decided
from kit.models.look import hooked
from kit.models.teacher import build_teacher
from kit.models.widths import new_student
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


class Subject:
    """A recipe's networks with new weights, its feed and the first batch of that: what all ways work with.

    fast, plain: its objective, fused by torch and not, over the same adapters. compiled: a run of the recipe would take the first.
    """

    def __init__(self, config: Config, data: Path | None, cache: Path, device: Device):
        split, train, side, where = training_photos(data, config), config.train, config.data.image_size, device.device
        classes = classes_of(split)
        torch.manual_seed(train.seed)
        student = new_student(config.student, classes)
        self.teachers = [build_teacher(config.teacher.arch, classes).eval().requires_grad_(False)] if wants_teacher(config) else []
        for teacher in self.teachers:
            prepare(student, teacher, config)
        self.config, self.device, self.student = config, device, student.to(where)
        self.panel = panel_of(self.teachers, config, device)
        order = Order(len(split), train.batch_size, train.seed)
        self.feed = cached_batches(decoded(split, config, cache), order, config.data, config.data.augment, where)
        self.batch = self.feed(0)
        self.fast = Objective(student, self.panel, config.distill, side, fuse=fused)
        self.plain = copy.copy(self.fast)
        self.plain.weigh = self.plain.compute
        self.compiled = bool(with_compile_decided(train, len(split), side, where, World()).compile)
        self.state = begin(student, self.fast.adapters, train, STEPS // train.epochs, device)

    def backward(self, loss: Loss) -> Backward:
        return Backward(loss, self.state.optimizer, self.state.scaler, self.device, self.config.train.clip_norm)

    def recorded(self, learn: Backward, prepare: Callable[[float], Hashable], updates: bool = True) -> Learn:
        """As a run learns: on a GPU as a CUDA graph."""
        return Recorded(learn, prepare, print, True, updates) if self.device.device.type == "cuda" else learn

    def live(self, learn: Learn) -> None:
        take_step(self.state, learn, self.feed, World())

    def frozen(self, learn: Learn) -> None:
        take_step(self.state, learn, lambda _: self.batch, World())


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    it, where, train = Subject(config, data, cache, device), device.device, config.train
    usual, other = (it.fast, it.plain) if it.compiled else (it.plain, it.fast)
    launched = it.backward(usual)
    whole, second = it.recorded(launched, usual.prepare), it.recorded(it.backward(other), other.prepare)
    parts = parts_of(it, launched)
    *others, last = (part.way.name for part in parts[1:])
    ways = [
        Way(LIVE, f"{', '.join(others)} and {last} on a new batch each", always(lambda: it.live(whole))),
        Way(FROZEN, "the same on one batch that is there", always(lambda: it.frozen(whole))),
        *(part.way for part in parts),
    ]
    if where.type == "cuda":
        ways.append(Way("step, kernel by kernel", "one frozen batch, no CUDA graph", always(lambda: it.frozen(launched))))
        torch.cuda.reset_peak_memory_stats(where)
    with hooked(it.fast.handles), stem_shared(it.student, it.teachers, it.panel, device):
        for _ in range(WARM + 2):  # recorded from the last but one on; the adapters' gradients are there from the first
            it.live(whole)
        taken = peak(where)
        try:
            for _ in range(WARM + 2):
                it.frozen(second)
        except KitError as error:  # no compiler here
            print(error)
        else:
            word, setting = ("not compiled", "false") if it.compiled else ("compiled", "true")
            ways.append(Way(f"step, {word}", f"one frozen batch, train.compile={setting}", always(lambda: it.frozen(second))))
        rows = milliseconds(measure(ways, rounds, where, seconds))
    what = f"A step of {config.recipe}: {train.batch_size} photos at {config.data.image_size} px{', compiled' if it.compiled else ''}"
    share = {} if where.type == "cuda" else shares(rows)  # a GPU's feed works while the step does
    return Outcome("step", what, "ms", FROZEN, rows, share | taken | floors(parts, where, rows))


def parts_of(it: Subject, launched: Backward) -> list[Part]:
    """Feed, teacher where one is looked at, student and optimiser, each alone."""
    images, labels = it.batch

    def ce(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(it.student(images).float(), labels)

    look, loss = (fused(it.panel.forward), fused(ce)) if it.compiled else (it.panel.forward, ce)
    alone = it.recorded(it.backward(lambda images, labels, progress: (loss(images, labels), {})), lambda progress: None, updates=False)
    learns = it.device.autocast or torch.float32
    warped = images.numel() * images.itemsize + len(images) * it.config.data.cache_side**2 * 3  # bytes
    parts = [Part(Way("feed", "order, draws, squares, warp", counted(it.feed)), learns, lambda rates: warped / rates.bandwidth)]
    if it.config.taught:
        says = f"a look, {str(it.device.teacher).removeprefix('torch.')}, batch norm folded"
        folded = ready(it.teachers[0], it.device)
        looks = next(folded.parameters()).dtype
        seen = it.panel.sized(images).to(looks)
        parts.append(Part(Way("teacher", says, always(lambda: look(images))), looks, of_layers(folded, seen, looks)))
    says = "forward and backward of cross entropy"
    parts.append(Part(Way("student", says, always(lambda: alone(images, labels, 0))), learns, of_layers(it.student, images, learns)))
    optimiser = Way("optimiser", f"{it.config.train.optimizer} over what the student learnt", always(launched.update))
    return [*parts, Part(optimiser, learns)]


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
