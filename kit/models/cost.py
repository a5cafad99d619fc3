"""What a network costs: multiplications, bytes of activations, and seconds as they are on this machine."""

import statistics
import time
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.models.blocks import training_only
from kit.models.look import blank, evaluated, watched


@torch.no_grad()
def called(model: nn.Module, parts: Mapping[str, nn.Module], image_size: int) -> list[tuple[str, nn.Module, torch.Size]]:
    """(name, module, shape of its output) of these parts as one blank photo calls them, a part that is called twice twice. In
    evaluation mode, so that nothing moves."""
    found: list[tuple[str, nn.Module, torch.Size]] = []

    def note(name: str, module: nn.Module, _: tuple[Tensor, ...], answer: Tensor) -> None:
        found.append((name, module, answer.shape))

    with evaluated(model), watched(parts, note):
        model(blank(model, image_size))
    return found


def layer_rows(model: nn.Module, image_size: int) -> list[tuple[str, tuple[int, ...], int]]:
    """(module's path, shape of its output for one photo [C, H, W], its own parameters) of every part; containers that only string their
    parts together are left out."""
    parts = {name: m for name, m in model.named_modules() if m is not model and not isinstance(m, (nn.Sequential, nn.Identity))}
    rows = called(model, parts, image_size)
    return [(name, tuple(shape[1:]), sum(p.numel() for p in module.parameters(recurse=False))) for name, module, shape in rows]


def count_macs(model: nn.Module, image_size: int) -> Counter[str]:
    """Multiplications of every convolution and linear layer for one photo. Branches that fuse away are left out, as where parameters are
    counted."""
    beside = training_only(model)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m not in beside}
    macs = Counter[str]()
    for name, module, shape in called(model, layers, image_size):
        macs[name] += shape.numel() * module.weight[0].numel()
    return macs


def activation_bytes(model: nn.Module, image_size: int) -> int:
    """What a training step keeps of one photo for its backward pass, float32 and without the parameters. In evaluation mode,
    since two photos are looked at."""
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with evaluated(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(torch.zeros(2, 3, image_size, image_size).to(memory_format=torch.channels_last))
    del answer  # until here: an address that is freed may be given to the next map
    return sum(held.values()) // 2


def step_seconds(model: nn.Module, image_size: int, batch: int, repeats: int) -> float:
    """Of forward and backward over a batch of noise with cross entropy: the median, after one that warms up. Its gradients stay."""
    x = torch.randn(batch, 3, image_size, image_size).to(memory_format=torch.channels_last)
    labels, times = torch.zeros(batch, dtype=torch.int64), []
    model.train()
    for _ in range(repeats + 1):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        F.cross_entropy(model(x), labels).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
