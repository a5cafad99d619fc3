"""Multiplications of a network."""

from functools import partial

import torch
from torch import Tensor, nn


@torch.no_grad()
def count_macs(model: nn.Module, image_size: int) -> dict[str, int]:
    """Multiplications of every convolution and linear layer for one photo, counted while it answers to an empty one."""
    found: dict[str, int] = {}

    def count(name: str, module: nn.Module, _: tuple, answer: Tensor) -> None:
        found[name] = answer.numel() * module.weight[0].numel()

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [module.register_forward_hook(partial(count, name)) for name, module in layers]
    try:
        model(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return found
