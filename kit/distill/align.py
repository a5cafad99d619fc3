"""Feature maps of any two networks brought to one shape: taps by module name, 1×1 adapters, pooling by a whole factor."""

import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from kit.errors import KitError

LOGITS = "logits"


def tap(model: nn.Module, modules: Sequence[str]) -> nn.Module:
    """The model as a function that returns {module: its output, "logits": the output}; it shares the model's weights.

    Raises:
        KitError: a module that the model does not have, with the nearest names.
    """
    known = dict(model.named_modules())
    for name in modules:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or [n for n, _ in model.named_children()]
            raise KitError(f"A hint names the module {name!r}, which {type(model).__name__} does not have. Nearest: {', '.join(near)}.")
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    return create_feature_extractor(model, {**{name: name for name in modules}, last: LOGITS})


class Adapters(nn.Module):
    """One 1×1 convolution for each hint whose widths differ. They live in training only and never reach the deployed student."""

    def __init__(self, widths: Sequence[tuple[int, int]]):
        """widths: (student's, teacher's) channels of each hint."""
        super().__init__()
        self.maps = nn.ModuleList(nn.Identity() if a == b else nn.Conv2d(a, b, 1) for a, b in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [adapt(feature) for adapt, feature in zip(self.maps, features, strict=True)]


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger map to the smaller one's size.

    Raises:
        KitError: one size is no multiple of the other; adaptive pooling could, but not repeatably on a GPU.
    """
    (ha, wa), (hb, wb) = a.shape[2:], b.shape[2:]
    if max(ha, hb) % min(ha, hb) or (ha * wb, hb * wa) != (wa * hb, wb * ha) or max(wa, wb) % min(wa, wb):
        raise KitError(
            f"A hint joins maps of {ha}×{wa} and {hb}×{wb}, and neither is a whole multiple of the other. "
            "Choose stages that stride alike, or another data.image_size (a multiple of 32)."
        )
    if ha > hb:
        return F.avg_pool2d(a, (ha // hb, wa // wb)), b
    return a, F.avg_pool2d(b, (hb // ha, wb // wa)) if hb > ha else b


def channels(extractor: nn.Module, modules: Sequence[str], image_size: int, like: torch.Tensor) -> list[int]:
    """Channels that each tap gives, found by looking at a blank picture in evaluation mode (`like`: device and type)."""
    was = extractor.training
    extractor.eval()
    with torch.no_grad():
        out = extractor(torch.zeros(1, 3, image_size, image_size, device=like.device, dtype=like.dtype))
    extractor.train(was)
    return [out[name].shape[1] for name in modules]
