"""Random numbers as a function of (seed, stream, step), so that no generator's state is ever saved.

`seed + step` would collide between seeds and streams (seed 1 step 2 is seed 2 step 1); a hash does not.
"""

import hashlib

import torch


def derive(seed: int, stream: str, step: int = 0) -> int:
    """A 63-bit seed of its own for every (seed, stream, step)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator that lives no longer than the step it serves; CPU, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, stream, step))


def seed_global(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the host and one device. torch's own writes down the stack for each kind of accelerator that it was built
    for and that has not begun: a millisecond of Python, in every step."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
