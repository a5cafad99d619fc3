"""A batch's gradients and what the optimiser makes of them, kernel by kernel, or on a GPU recorded once and launched as one (a CUDA graph).

A small student's step is a thousand kernels of a few microseconds each, and no host launches them as fast as a GPU finishes them. What is
recorded is the teacher's look, the student's forward pass, the losses, backward and, where nothing comes between and the optimiser reads
its rate from the device, clipping and the update; views and average stay outside. The same kernels in the same order give the same bits,
so recording is a matter of time alone: each session measures it and takes what is faster there.
"""

import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kit.device import Device
from kit.errors import in_brief

Loss = Callable[[Tensor, Tensor, float], tuple[Tensor, dict[str, Tensor]]]


WARM, TIMED = 3, 10  # steps that are taken before a recording, and that each way is timed for


class Backward:
    """The gradients of the loss with respect to all that the optimiser holds, scaled where the device needs it. clip_norm: what `update`
    cuts their norm to."""

    def __init__(
        self, loss: Loss, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, device: Device, clip_norm: float | None = None
    ):
        self.loss, self.optimizer, self.scaler, self.device, self.clip_norm = loss, optimizer, scaler, device, clip_norm

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.device.type, self.device.autocast, enabled=self.device.autocast is not None):
            total, values = self.loss(images, labels, progress)
        self.scaler.scale(total).backward()
        return {name: value.detach() for name, value in ({"loss": total} | values).items()}

    def update(self) -> None:
        if self.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    @property
    def rate_on_device(self) -> bool:
        """Whether the update can be recorded: torch's fused Adam reads its learning rate from the device, where another can be put."""
        return isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW) and not self.scaler.is_enabled()


class Recorded:
    """The same, recorded after a few steps, and anew when other terms are computed or the optimiser has loaded another state, which lies in
    other memory. A step that can't be recorded is taken as before.

    Args:
        prepare: brings the loss to a share of the plan's epochs, in place, and says which of its terms are computed there.
        say: told once what came of it.
        pays: whether it does, where that need not be measured.
        updates: nothing comes between the gradients and the update, which is recorded along where that can be.
    """

    def __init__(
        self,
        learn: Backward,
        prepare: Callable[[float], Hashable],
        say: Callable[[str], None],
        pays: bool | None = None,
        updates: bool = True,
    ):
        self.learn, self.prepare, self.say, self.pays = learn, prepare, say, pays
        self.updates = updates and learn.rate_on_device
        self.kind: Hashable = None
        self.state = learn.optimizer.state  # that steps of this kind have updated
        self.steps = 0  # of this kind
        self.graph: torch.cuda.CUDAGraph | None = None
        self.times: list[float] = []  # at which steps began
        self.plain = math.inf  # seconds

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        kind = (self.prepare(progress), images.shape, labels.shape, labels.dtype)
        if kind != self.kind or self.state is not self.learn.optimizer.state:
            self.kind, self.state = kind, self.learn.optimizer.state
            self.steps, self.graph, self.times = 0, None, []
        self.steps += 1
        if self.pays is None:
            self.compare()
        if self.pays is not False and self.graph is None and self.steps > WARM + (TIMED if self.pays is None else 0):
            self.record(images, labels, progress)
        if self.graph is None:
            return (self.watched if self.steps == WARM and self.pays is not False else self.whole)(images, labels, progress)
        self.images.copy_(images)
        self.labels.copy_(labels)
        for rate, group in zip(self.rates, self.learn.optimizer.param_groups, strict=False):  # none where the update is not recorded
            rate.fill_(group["lr"])
        self.graph.replay()
        for parameter, gradient in self.gradients:  # the recording's own memory, whatever was put in its place since
            parameter.grad = gradient
        return {name: value.clone() for name, value in self.values.items()}

    def whole(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """A step as it was."""
        values = self.learn(images, labels, progress)
        if self.updates:
            self.learn.update()
        return values

    def update(self) -> None:
        """Nothing where the step has done so."""
        if not self.updates:
            self.learn.update()

    def compare(self) -> None:
        """Whether it pays: the median of TIMED steps as they were, and of as many recorded ones; of whole steps, the feed among them. An
        evaluation or a checkpoint between two of them is in neither median."""
        place = self.steps - WARM - 1  # from 0: as it was; from TIMED + WARM: recorded
        if 0 <= place <= TIMED or place >= TIMED + WARM:
            self.times.append(finished())
        if place == TIMED:
            self.plain, self.times = typical(self.times), []
        elif place == 2 * TIMED + WARM:
            recorded = typical(self.times)
            self.pays = recorded < self.plain
            if not self.pays:
                self.graph = None
            before, after = (f"{1000 * seconds:.1f} ms" for seconds in (self.plain, recorded))
            self.say(f"steps are {'' if self.pays else 'not '}recorded as a CUDA graph: {before} without, {after} with it")

    def watched(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """A step as it was, in which torch tells of every wait for the GPU: with one of them nothing is recorded. A recording that a wait
        breaks off is never over for torch's allocator, which then keeps each later batch."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                values = self.whole(images, labels, progress)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        if any("called a synchronizing CUDA operation" in str(warning.message) for warning in said):
            self.pays = False
            self.say("steps can't be recorded as a CUDA graph: the host waits for the GPU in them")
        return values

    def record(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Of a batch's shape; nothing is computed yet. What a recording can't hold refuses it."""
        self.images, self.labels, groups = images.clone(), labels.clone(), self.learn.optimizer.param_groups
        self.rates = [torch.empty((), device=images.device) for _ in groups] if self.updates else []
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with (
                rates_read_from(self.rates, groups),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),  # the feed's threads go on pinning and copying
            ):
                self.values = self.whole(self.images, self.labels, progress)
        except RuntimeError as error:
            self.pays = False
            torch.cuda.set_stream(before)  # torch does so only where the recording came to its end
            draws = torch.cuda.default_generators[images.device.index]  # still counts as recorded from, and would refuse to draw
            draws.graphsafe_set_state(torch.Generator(images.device).manual_seed(draws.initial_seed()).graphsafe_get_state())
            self.say(f"steps can't be recorded as a CUDA graph: {in_brief(error)}")
        else:
            self.graph = graph
            self.gradients = [(p, p.grad) for group in groups for p in group["params"]]


@contextmanager
def rates_read_from(rates: Sequence[Tensor], groups: Sequence[dict[str, Any]]) -> Iterator[None]:
    """The optimiser's learning rates are tensors on the device for a while; none: they stay as they are."""
    before = [(group, {name: group[name] for name in ("lr", "capturable")}) for _, group in zip(rates, groups, strict=False)]
    for rate, group in zip(rates, groups, strict=False):
        group |= {"lr": rate, "capturable": True}
    try:
        yield
    finally:
        for group, was in before:
            group |= was


def typical(times: Sequence[float]) -> float:
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(times))


def finished() -> float:
    """The time, s, once the GPU has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


Learn = Backward | Recorded  # (images, labels, progress) → the losses' values; `update` moves the parameters by the gradients
