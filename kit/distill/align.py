"""Feature maps of any two networks brought together: taps by module name, 1×1 adapters, pooling to one size, the classifier."""

import difflib
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.errors import KitError
from kit.models.look import blank, classifier, evaluated, hooked, watched

LOGITS = "logits"
Seen = dict[str, Tensor]  # what a network says of a batch: logits, and maps by their module's name
Ask = Callable[[Tensor], Seen]  # of images


def refuse_unknown(model: nn.Module, modules: Sequence[str]) -> None:
    """
    Raises:
        KitError: a module that the model does not have, with the nearest names.
    """
    known = dict(model.named_modules())
    for name in modules:
        if not name or name not in known:
            near = difflib.get_close_matches(name, known) or [n for n, _ in model.named_children()]
            raise KitError(
                f"A term of distill names the module {name!r}, which {type(model).__name__} does not have. Nearest: {', '.join(near)}."
            )


class Taps:
    """A pass through a network, {module: its output, "logits": the model's}, by hooks that stay, for a compiled pass can't register any:
    they keep what is said while this looks, and nothing of other passes or of the model's copies. handles: take the hooks off again.

    Args:
        inside: whose modules are named, where the model is made of several. What it says first counts.
        copied: modules whose output is copied, since a later one writes over it.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str], inside: nn.Module | None = None, copied: Collection[str] = ()):
        self.model, self.copied, self.seen, self.looks = model, copied, Seen(), False
        named = dict((inside or model).named_modules())
        self.handles = [named[name].register_forward_hook(self.keeper(name)) for name in modules]

    def keeper(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if self.looks and name not in self.seen:
                self.seen[name] = output.clone() if name in self.copied else output

        return hook

    def __call__(self, images: Tensor) -> Seen:
        self.seen, self.looks = {}, True
        logits = self.model(images)
        seen, self.seen, self.looks = self.seen, {}, False
        return seen | {LOGITS: logits}


def look(model: nn.Module, modules: Sequence[str], images: Tensor, inside: nn.Module | None = None, copied: Collection[str] = ()) -> Seen:
    """One pass by hooks that end with it, so that any network can be tapped, in any mode. Arguments as of `Taps`."""
    taps = Taps(model, modules, inside, copied)
    with hooked(taps.handles):
        return taps(images)


@torch.no_grad()
def written_over(model: nn.Module, modules: Sequence[str], image_size: int, inside: nn.Module | None = None) -> set[str]:
    """The modules whose output is modified in place before the pass ends, by an in-place ReLU or sum."""
    if not modules:
        return set()
    given: dict[str, tuple[Tensor, int]] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given[name] = output, output._version  # what torch counts writes by

    named = dict((inside or model).named_modules())
    with evaluated(model), watched({name: named[name] for name in modules}, note):
        model(blank(model, image_size))
    return {name for name, (output, version) in given.items() if output._version != version}


@torch.no_grad()
def shapes(model: nn.Module, modules: Sequence[str], image_size: int, inside: nn.Module | None = None) -> dict[str, tuple[int, int, int]]:
    """(channels, height, width) that each module gives, found by looking at a blank picture in evaluation mode. inside: as for `look`.

    Raises:
        KitError: a module that the model does not have, or whose output is no map.
    """
    refuse_unknown(inside or model, modules)
    if not modules:
        return {}
    with evaluated(model):
        seen = look(model, modules, blank(model, image_size), inside)
    for name in modules:
        if not isinstance(seen.get(name), Tensor) or seen[name].ndim != 4:
            raise KitError(f"A term of distill names the module {name!r}, which gives no feature map. Name one before the mean over space.")
    return {name: tuple(seen[name].shape[1:]) for name in modules}


def adapter(ours: int, theirs: int) -> nn.Module:
    """A 1×1 convolution where widths differ."""
    return nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1)


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The larger map averaged to the smaller one's size."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return pool_to(a, size), pool_to(b, size)


def pool_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling. By whole factors where the sizes allow, else by two matrices: its own backward is not repeatable on a
    GPU."""
    (height, width), (high, wide) = x.shape[2:], size
    if (height, width) == size:
        return x
    if height % high == 0 and width % wide == 0:
        return F.avg_pool2d(x, (height // high, width // wide))
    return torch.einsum("ih,nchw,jw->ncij", bins(height, high, x), x, bins(width, wide, x))


def bins(length: int, parts: int, like: Tensor) -> Tensor:
    """[parts, length]: which places each part averages, the borders rounded outwards as in adaptive pooling. Made where it is used: a
    recorded step can't copy from the host."""
    part, place = torch.arange(parts, device=like.device)[:, None], torch.arange(length, device=like.device)
    start, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = (start <= place) & (place < end)
    return (inside.float() / (end - start)).to(like.dtype)


def take_classifier(student: nn.Module, teacher: nn.Module) -> None:
    """The student's classifier becomes the teacher's, frozen (SimKD).

    Raises:
        KitError: they are of different widths.
    """
    ours, theirs = classifier(student), classifier(teacher)
    if ours.weight.shape != theirs.weight.shape:
        raise KitError(
            f"simkd keeps the teacher's classifier, {theirs.in_features} wide, and the student's last map has {ours.in_features} channels. "
            f"What widens it is handed in and counts at the limit, so it must be a part of the student: end student.widths with "
            f"{theirs.in_features}, or leave simkd out."
        )
    ours.load_state_dict(theirs.state_dict())
    ours.requires_grad_(False)
