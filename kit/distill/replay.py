"""The teacher's logits of every seeded view, kept in a file, so that a run's second time needs no teacher.

A view is a function of (seed, step), so its logits are too. The file has a row a step, at step × the row's size:

    digest (16 bytes) | logits of the batch, in the type that is stored

The digest is over the step, a sample of the views' pixels and the logits. A row that was half written when the process was killed, that
a power cut left empty, or that belongs to other views (an augmentation that the file's name doesn't know) does not have it: it is
computed again. So two runs may share a file, and nothing needs to be flushed or locked. Written with `pwrite` and not by a memory map:
on a full disk a map ends the process with SIGBUS.

The run that computes uses the rounded logits too, so that it gives the bytes of the one that replays.
"""

import hashlib
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kit.console import Log
from kit.files import StorageError

DIGEST = 16  # bytes
SAMPLES = 8  # of a view's pixels along each side that tell it from others

Batches = Callable[[int], tuple[Tensor, Tensor]]


class Recall:
    """What answers for the teacher of the batch that was drawn last. step: that batch's."""

    step = -1

    def drawn(self, batches: Batches) -> Batches:
        """The same batches; each step that is drawn is the one whose logits are asked for next."""

        def draw(step: int) -> tuple[Tensor, Tensor]:
            self.step = step
            return batches(step)

        return draw


class Replay(Recall):
    """Logits by step. `drawn` must be around the batches: it says which step's views come next.

    shape: of a step's logits, (photos, classes). stored: "float16" or "float32". replayed, computed: how many steps were which.
    """

    def __init__(self, file: Path, shape: tuple[int, int], stored: str, log: Log):
        self.file, self.shape, self.type, self.log = file, shape, np.dtype(stored), log
        self.size = DIGEST + math.prod(shape) * self.type.itemsize  # of a row, bytes
        self.step, self.replayed, self.computed = -1, 0, 0
        self.writes = True
        try:
            self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError.of(file, error) from None

    def __call__(self, images: Tensor, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        """float32 [N, K] on the images' device, rounded to the stored type. Waits for the device."""
        sample, row = sample_of(images), b""
        with suppress(OSError):  # a mount that is gone: computed instead
            row = os.pread(self.descriptor, self.size, self.step * self.size)
        if len(row) == self.size and row[:DIGEST] == self.digest(sample, row[DIGEST:]):
            self.replayed += 1
            logits = np.frombuffer(row[DIGEST:], self.type).reshape(self.shape)
        else:
            self.computed += 1
            logits = teacher(images).cpu().numpy().astype(self.type)
            self.write(sample, logits.tobytes())
        return torch.from_numpy(logits.astype(np.float32)).to(images.device)

    def write(self, sample: bytes, content: bytes) -> None:
        """A row. What can't be kept costs the next run some time and this one nothing: it goes on without."""
        if not self.writes:
            return
        try:
            os.pwrite(self.descriptor, self.digest(sample, content) + content, self.step * self.size)
        except OSError as error:
            self.writes = False
            self.log(f"{self.file} takes no more of the teacher's logits ({error.strerror}); the run goes on without keeping them")

    def digest(self, sample: bytes, content: bytes) -> bytes:
        whole = hashlib.blake2b(self.step.to_bytes(8, "little"), digest_size=DIGEST)
        whole.update(sample)
        whole.update(content)
        return whole.digest()

    def close(self) -> None:
        os.close(self.descriptor)


def sample_of(images: Tensor) -> bytes:
    """Some pixels of each view: enough to tell it from any other, few enough to cost nothing."""
    step = max(1, images.shape[-1] // SAMPLES)
    return images[:, :, ::step, ::step].cpu().contiguous().numpy().tobytes()


class Fixed(Recall):
    """The soft labels of each photo, computed once of its plain view, in Replay's place: whatever the student sees.

    logits: float32 [photos, K]. rows: step → which photos its batch has, int64 [N].
    """

    def __init__(self, logits: Tensor, rows: Callable[[int], Tensor]):
        self.logits, self.rows = logits, rows

    def __call__(self, images: Tensor, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        return self.logits[self.rows(self.step)].to(images.device)
