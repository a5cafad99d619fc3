"""Where the arithmetic happens and how precisely: chosen once, by what the machine can do, and said aloud."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from kit.errors import KitError, in_brief

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


@dataclass(frozen=True)
class Device:
    """teacher: its type. autocast: the student's under AMP, None for float32. scaled: float16 needs a gradient scaler.

    kind: two devices of one kind give the same bits when they make the same choices.
    """

    device: torch.device
    teacher: torch.dtype
    autocast: torch.dtype | None
    scaled: bool
    kind: str
    says: str

    def choices(self) -> dict[str, Any]:
        """What was found out about this machine and decides the last bits; a run keeps it for its later sessions."""
        precisions = {"teacher": str(self.teacher), "autocast": str(self.autocast)}
        return {"device": self.kind, **precisions, "threads": torch.get_num_threads()}


def sent(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor of the host's on the device: to a GPU out of pinned memory, for a plain copy is waited for."""
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers


def choose_device(before: dict[str, Any] | None = None) -> Device:
    """CUDA where the build has code for the card, else the CPU.

    `torch.cuda.is_available()` is not enough: a P100 says yes and fails at the first operation of a build without sm_60.

    Args:
        before: the choices of the run's last session. On a device of the same kind its number of threads is kept, since sums are
            split by it; precision follows from the kind.
    """
    device = find_device()
    if before and before["device"] == device.kind and before["threads"] <= (os.cpu_count() or 1):
        torch.set_num_threads(before["threads"])
    return device


def find_device() -> Device:
    """The first card, or the CPU with the reason why not."""
    if not torch.cuda.is_available():
        return cpu_because("")
    if why := lacks_code():
        return cpu_because(f"{why}; ")
    name = torch.cuda.get_device_name()
    torch.backends.cudnn.deterministic = True  # some of its gradients are sums in whatever order comes; not slower in a recorded step
    card = torch.device("cuda", torch.cuda.current_device())
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Device(card, torch.bfloat16, torch.bfloat16, False, name, f"{name}, bfloat16 (native)")
    return Device(card, torch.float16, torch.float16, True, name, f"{name}, float16 with a scaler (no native bfloat16)")


def cpu_because(why: str) -> Device:
    """The student stays in float32: its small depthwise convolutions are slower in bfloat16 here.

    Weights that decay towards zero end as denormal numbers, and a step on those took twice as long (230 → 550 ms in the 30th epoch of
    `boss`), so they are flushed to zero.

    why: how `says` begins, "" for nothing.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)  # early: torch's threads inherit it when they start
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    says = "teacher in bfloat16 (native), student in float32" if fast else "float32"
    return Device(
        device=torch.device("cpu"),
        teacher=torch.bfloat16 if fast else torch.float32,
        autocast=None,
        scaled=False,
        kind=f"CPU, {torch.backends.cpu.get_cpu_capability()}{', bfloat16' if fast else ''}",
        says=f"{why}CPU, {says}",
    )


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of giving it back: activations of tens of megabytes are freed and asked for again at
    every step, and the kernel's zeroing of fresh pages took a quarter of a CPU step. Elsewhere than on Linux with glibc: nothing."""
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def usable_cards() -> int:
    """How many GPUs share a session's work, 0 for the CPU.

    Raises:
        KitError: there is a card that the installed torch has no code for. On the CPU a session of Kaggle's would take its hours from the
            week's GPU time and bring next to nothing.
    """
    if not torch.cuda.is_available():
        return 0
    if why := lacks_code():
        raise KitError(f'This session\'s {why}. Set "machine_shape": "NvidiaTeslaT4" in kernel-metadata.json and push again.')
    return torch.cuda.device_count()


def lacks_code() -> str:
    """Why the card can't be used: the build has code neither for its own architecture nor for an older one of the same major version. ""
    where it can."""
    major, minor = torch.cuda.get_device_capability()
    built = [arch.partition("_")[2].rstrip("af") for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    if any(int(arch[:-1]) == major and int(arch[-1]) <= minor for arch in built if arch.isdigit()):
        return ""
    return f"{torch.cuda.get_device_name()} is sm_{major}{minor}, which this torch has no code for ({' '.join(torch.cuda.get_arch_list())})"


# What torch's allocator, oneDNN and Python say where there is no more memory, or no more than `ulimit -v` allows; and on a GPU CUDA, NCCL,
# cuBLAS and cuDNN, whose own memory is none of torch's allocator's.
SHORTAGES = ("can't allocate memory", "could not create a primitive", "can't start new thread", "out of memory", "ALLOC_FAILED")


def is_shortage(error: BaseException) -> bool:
    """Whether there was not enough memory. torch has a class of its own only for what its allocator did not get on a GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(short in str(error) for short in SHORTAGES))


@contextmanager
def shortages_named() -> Iterator[None]:
    """What the machine did not have for the work in here is named, with what helps. That a worker was killed torch says by a signal's
    handler, wherever the work then is.

    Raises:
        KitError: in place of torch's own error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" in str(error):
            raise KitError(
                "A decoding worker was killed by the system, most often for want of memory, or in a container of what processes share "
                "(docker run --shm-size=2g). The same command goes on from the last checkpoint, with fewer workers: --set data.workers=1."
            ) from None
        if not is_shortage(error):
            raise
        raise KitError(
            f"The memory is not enough: {in_brief(error, 200)}. What was saved is untouched, and the same command goes on once there is "
            "more: close what else uses the device, raise the limits that ulimit -a shows, or leave the photos out of the device's memory "
            "with --set data.feed=stream. Or make the steps smaller, in another --out: --set train.batch_size=…, and where the run trains "
            "its teacher --set teacher.train.batch_size=…."
        ) from None
