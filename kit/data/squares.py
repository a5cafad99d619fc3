"""Where a step's cached squares come from: the device's own memory, or the host's, streamed ahead of the step.

Both answer `squares(step)` with the same pixels, uint8 [M, S, S, 3] on the device, so which of them works is a matter of memory alone:
the cache is resident where the device takes it and still has as much left for a step; else it is streamed. On a CPU the cache is a
memory map that the system reads from the disk when a photo is first wanted, and keeps while it has room.

Streaming is done by threads, not processes: gathering rows is one call into torch, which lets go of Python's lock; there is nothing to
send, no shared memory to run out of, and no worker that the system could kill by itself.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from kit.data.order import Order
from kit.device import is_shortage, sent
from kit.processes import cores

Squares = Callable[[int], Tensor]
THREADS = 4  # gathering is a matter of memory, which few cores saturate
AHEAD = 3  # steps that are gathered before they are asked for


class Resident:
    """The whole cache in one tensor: on a GPU in its memory, on the CPU over the memory map.

    Raises:
        torch.OutOfMemoryError: the device does not take it.
    """

    def __init__(self, pixels: np.ndarray, order: Order, device: torch.device):
        self.pixels, self.order, self.device = as_tensor(pixels), order, device
        if device.type == "cuda":
            self.pixels = self.pixels.to(device)

    def __call__(self, step: int) -> Tensor:
        rows = sent(self.order.mine(step), self.device)
        return self.pixels[rows] if rows.is_cuda else gathered(self.pixels, rows)


class Streamed:
    """The cache in the host's memory or on its disk: threads gather the coming steps, into pinned memory and on to the GPU on a stream
    of their own where there is one. What was gathered for steps that are not asked for next is dropped.

    workers: threads, 0 for one per core up to four.
    """

    def __init__(self, pixels: np.ndarray, order: Order, device: torch.device, workers: int = 0):
        self.pixels, self.order, self.device = as_tensor(pixels), order, device
        begin = {"initializer": torch.cuda.set_device, "initargs": (device,)} if device.type == "cuda" else {}  # else GPU 0 is begun, too
        self.pool = ThreadPoolExecutor(workers or min(THREADS, cores()), "squares", **begin)
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.coming: dict[int, Future[tuple[Tensor, torch.cuda.Event | None]]] = {}

    def __call__(self, step: int) -> Tensor:
        wanted = range(step, step + 1 + AHEAD)
        self.coming = {s: self.coming.get(s) or self.pool.submit(self.gather, s) for s in wanted}
        squares, copied = self.coming.pop(step).result()
        if copied is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(copied)
            squares.record_stream(now)  # its memory is the side stream's: not to be used again before this step has read it
        return squares

    def gather(self, step: int) -> tuple[Tensor, torch.cuda.Event | None]:
        """A step's squares, and the event of their copy to a GPU."""
        rows = self.order.mine(step)
        if self.side is None:
            return gathered(self.pixels, rows), None
        pinned = torch.empty(len(rows), *self.pixels.shape[1:], dtype=torch.uint8, pin_memory=True)
        torch.index_select(self.pixels, 0, rows, out=pinned)
        with torch.cuda.stream(self.side):
            return pinned.to(self.device, non_blocking=True), self.side.record_event()


def gathered(pixels: Tensor, rows: Tensor) -> Tensor:
    """pixels[rows] on a CPU, in a fifth of its time: whole squares are copied, not their bytes one by one."""
    return pixels.index_select(0, rows)


def choose_squares(pixels: np.ndarray, order: Order, device: torch.device, feed: str, workers: int) -> tuple[Squares, str]:
    """Resident or streamed, by the rule above, and the words to say so. feed: "stream" streams in any case."""
    size = f"{pixels.nbytes / 1e6:,.0f} MB of decoded photos"
    if feed == "stream":
        return Streamed(pixels, order, device, workers), f"{size} are streamed, as data.feed asks"
    if device.type != "cuda":
        return Resident(pixels, order, device), f"{size} are mapped into the host's memory"
    torch.cuda.empty_cache()  # what the rehearsal has freed is free
    free = torch.cuda.mem_get_info(device)[0]
    room = f"{device} has {free / 1e9:.2f} GB free"
    if 2 * pixels.nbytes > free:
        return Streamed(pixels, order, device, workers), f"{size} are streamed: {room}, and half of it is kept for the steps"
    try:
        return Resident(pixels, order, device), f"{size} are resident: {room}"
    except RuntimeError as error:  # free, but in pieces, or another process was quicker
        if not is_shortage(error):
            raise
        return Streamed(pixels, order, device, workers), f"{size} are streamed: {room}, but did not take them"


def as_tensor(pixels: np.ndarray) -> Tensor:
    """A tensor over a memory map. torch can't mark memory as read-only and warns; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)
