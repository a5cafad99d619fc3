"""A look through a network: at a blank photo, with hooks that end with it, in a mode that does not outlive it; and at its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def blank(model: nn.Module, side: int) -> Tensor:
    """One photo [1, 3, side, side] as the model takes it."""
    like = next(model.parameters())
    return torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype)


@contextmanager
def hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks that have been registered are gone after the block, however it ends."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield


@contextmanager
def watched(modules: Mapping[str, nn.Module], note: Callable[[str, nn.Module, tuple[Tensor, ...], Tensor], None]) -> Iterator[None]:
    """In the block, each call of one of the modules ends with `note(name, module, what it was given, what it gave)`."""
    with hooked([module.register_forward_hook(partial(note, name)) for name, module in modules.items()]):
        yield


@contextmanager
def evaluated(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; after the block each module is in the mode that it was in."""
    was = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, training in was.items():
            module.training = training


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
