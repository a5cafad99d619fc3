"""What the teacher says of every seeded view, kept in a file, so that a run's second time needs no teacher.

A view is a function of (seed, step), so its logits and maps are too. The file has a row a step, at step × the row's size:

    digest (16 bytes) | logits of the batch, then each map as N, H, W, C, in the type that is stored

The digest is over the step, a sample of the views' pixels and the answers. A row that was half written when the process was killed, that
a power cut left empty, or that belongs to other views (an augmentation that the file's name doesn't know) does not have it: it is
computed again. So two runs may share a file, and nothing needs to be flushed or locked. Written with `pwrite` and not by a memory map:
on a full disk a map ends the process with SIGBUS.

The run that computes uses the rounded answers too, so that it gives the bytes of the one that replays.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from kit.console import Log
from kit.data.loader import Batches
from kit.distill.align import LOGITS, Ask, Seen
from kit.files import StorageError

DIGEST = 16  # bytes
SAMPLES = 8  # of a view's pixels along each side that tell it from others


class ByStep:
    """What answers for the teacher of the batch that was drawn last. step: that batch's."""

    step = -1

    def drawn(self, batches: Batches) -> Batches:
        """The same batches; each step that is drawn is the one whose logits are asked for next."""

        def draw(step: int) -> tuple[Tensor, Tensor]:
            self.step = step
            return batches(step)

        return draw


class Replay(ByStep):
    """Answers by step. `drawn` must be around the batches: it says which step's views come next.

    shapes: of a step's answers by name: logits (N, K), maps (N, C, H, W). stored: "float16" or "float32". steps: of the plan; nothing is
    written where the disk has not twice as much free as these will take. replayed, computed: how many steps were which.
    """

    def __init__(self, file: Path, shapes: Mapping[str, Sequence[int]], stored: str, steps: int, log: Log):
        self.file, self.shapes, self.type, self.log = file, shapes, getattr(torch, stored), log
        self.size = DIGEST + sum(math.prod(shape) for shape in shapes.values()) * self.type.itemsize  # of a row, bytes
        self.replayed, self.computed = 0, 0
        try:
            self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            owed, free = steps * self.size - os.fstat(self.descriptor).st_size, shutil.disk_usage(file.parent).free
        except OSError as error:
            raise StorageError.of(file, error) from None
        self.writes = 2 * owed <= free
        if not self.writes:
            wanted = f"{owed / 1e9:,.1f} GB are to come, and the disk of {file} has {free / 1e9:,.1f} GB free"
            log(f"the teacher's answers are not kept: {wanted}")

    def __call__(self, images: Tensor, ask: Ask) -> Seen:
        """float32, on the images' device, rounded to the stored type. Waits for the device."""
        sample, row, read = sample_of(images), bytearray(self.size), 0
        with suppress(OSError):  # a mount that is gone: computed instead
            read = os.preadv(self.descriptor, [row], self.step * self.size)
        if read == self.size and row[:DIGEST] == self.digest(sample, row):
            self.replayed += 1
        else:
            self.computed += 1
            row = self.encoded(sample, ask(images))
            self.write(row)
        return {name: value.to(images.device).float() for name, value in self.decoded(row).items()}

    def encoded(self, sample: bytes, seen: Seen) -> bytearray:
        row = bytearray(self.size)
        for name, place in self.decoded(row).items():
            place.copy_(seen[name])
        row[:DIGEST] = self.digest(sample, row)
        return row

    def decoded(self, row: bytearray) -> Seen:
        """The row's answers, over its own memory."""
        seen, start = {}, DIGEST
        for name, (photos, channels, *sides) in self.shapes.items():
            values = photos * channels * math.prod(sides)
            flat = torch.frombuffer(row, dtype=self.type, count=values, offset=start)
            seen[name] = flat.view(photos, *sides, channels).movedim(-1, 1)
            start += values * self.type.itemsize
        return seen

    def write(self, row: bytearray) -> None:
        """What can't be kept costs the next run some time and this one nothing: it goes on without."""
        if not self.writes:
            return
        try:
            os.pwrite(self.descriptor, row, self.step * self.size)
        except OSError as error:
            self.writes = False
            self.log(f"{self.file} takes no more of the teacher's answers ({error.strerror}); the run goes on without keeping them")

    def digest(self, sample: bytes, row: bytearray) -> bytes:
        whole = hashlib.sha256(self.step.to_bytes(8, "little"))
        whole.update(sample)
        whole.update(memoryview(row)[DIGEST:])
        return whole.digest()[:DIGEST]

    def close(self) -> None:
        os.close(self.descriptor)


def sample_of(images: Tensor) -> bytes:
    """Some pixels of each view: enough to tell it from any other, few enough to cost nothing."""
    step = max(1, images.shape[-1] // SAMPLES)
    return images[:, :, ::step, ::step].cpu().contiguous().numpy().tobytes()


class Fixed(ByStep):
    """The soft labels of each photo, computed once of its plain view, in Replay's place: whatever the student sees.

    logits: float32 [photos, K]. rows: step → which photos its batch has, int64 [N].
    """

    def __init__(self, logits: Tensor, rows: Callable[[int], Tensor]):
        self.logits, self.rows = logits, rows

    def __call__(self, images: Tensor, ask: Ask) -> Seen:
        return {LOGITS: self.logits[self.rows(self.step)].to(images.device)}
