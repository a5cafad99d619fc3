"""Logits of a decoded split, in its own order."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kit.augment.views import evaluation_views
from kit.config.schema import Data
from kit.data.cache import Photos
from kit.data.loader import as_tensor

BATCH = 256


@torch.no_grad()
def logits(
    model: nn.Module, photos: Photos, data: Data, *, flip: bool = False, limit: int | None = None, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """float32 [N, K] on the CPU, on the model's device and in its precision.

    Args:
        model: in evaluation mode.
        flip: average with the logits of the mirrored photos.
        limit: look at this many photos only.
        tick: called before every batch; it may raise to stop (the session's budget).
    """
    like = next(model.parameters())
    pixels, sizes = as_tensor(photos.pixels), torch.from_numpy(photos.sizes)
    out = []
    for i in range(0, min(len(photos), limit or len(photos)), BATCH):
        tick()
        rows = slice(i, i + BATCH)
        views = evaluation_views(pixels[rows].to(like.device), sizes[rows], data).to(like.dtype)
        answer = model(views)
        if flip:
            answer = (answer + model(views.flip(-1))) / 2
        out.append(answer.float().cpu())
    return torch.cat(out)


def accuracy(model: nn.Module, photos: Photos, data: Data, *, flip: bool = False, tick: Callable[[], None] = lambda: None) -> float:
    """Share of labelled photos whose largest logit is their label's, 0…1."""
    answer = logits(model, photos, data, flip=flip, tick=tick).argmax(1).numpy()
    return float((answer == photos.labels).mean())


def classes_of(answer: Tensor, photos: Photos, most_frequent: int) -> np.ndarray:
    """int64 [N]; a photo that does not decode gets the most frequent class, the best guess without looking."""
    predicted = answer.argmax(1).numpy()
    predicted[list(photos.bad)] = most_frequent
    return predicted
