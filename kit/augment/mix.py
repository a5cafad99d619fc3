"""Mixup and CutMix over the pairs of a batch, on its device; labels are mixed as the photos are.

The photos of a step come in a random order, so neighbours are as good as random partners, and each process finds both of a pair in its
own share of the batch. All numbers are drawn for the whole batch from the step's own generator.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kit.config.schema import Augment
from kit.device import sent


def mix(
    images: Tensor, labels: Tensor, classes: int, augment: Augment, draw: np.random.Generator, batch: int, share: slice
) -> tuple[Tensor, Tensor]:
    """Pairs of views mixed by mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019, appendix A).

    Args:
        images: [M, 3, H, W], the share of the step's `batch`, in pairs but for an odd batch's last. labels: int64 [M], -1 for none.
        draw: numpy's, since torch draws no Beta from a generator; its numbers are a function of the step.
    Returns:
        Images, and the shares of the classes, float32 [M, K]; a row sums to less than 1 by as much as an unlabelled photo has in it.
    """
    cut = bool(augment.cutmix) and (not augment.mixup or draw.random() < 0.5)
    alpha = augment.cutmix if cut else augment.mixup
    kept, place = draw.beta(alpha, alpha, (batch + 1) // 2), draw.random((2, (batch + 1) // 2))
    kept, place = kept.repeat(2)[:batch][share], place.repeat(2, axis=1)[:, :batch][:, share]
    partner = sent((torch.arange(len(images)) ^ 1).clamp(max=len(images) - 1), images.device)  # the last of an odd batch is its own
    if cut:
        mask, kept = rectangles(kept, place, images.shape[2:], images.device)
        mixed = torch.where(mask, images[partner], images)
    else:
        weight = sent(torch.from_numpy(kept).to(images.dtype), images.device)[:, None, None, None]
        mixed = torch.lerp(images[partner], images, weight)
    known = F.one_hot(labels.clamp(min=0), classes).float() * (labels >= 0)[:, None]
    return mixed, torch.lerp(known[partner], known, sent(torch.from_numpy(kept).to(known.dtype), known.device)[:, None])


def rectangles(kept: np.ndarray, place: np.ndarray, size: torch.Size, device: torch.device) -> tuple[Tensor, np.ndarray]:
    """Where the other photo is seen, bool [M, 1, H, W], and the share of the own one that is left.

    kept: the share that is asked for. A rectangle of the photo's shape is centred anywhere and cut off at the border, so more is left.
    """
    sides = np.sqrt(1 - kept)
    masks, covered = [], []
    for length, centre in zip(size, place, strict=True):
        begin = np.round(np.clip(centre - sides / 2, 0, 1) * length)
        end = np.round(np.clip(centre + sides / 2, 0, 1) * length)
        line = np.arange(length)
        masks.append((line >= begin[:, None]) & (line < end[:, None]))
        covered.append((end - begin) / length)
    mask = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return sent(torch.from_numpy(mask), device), 1 - covered[0] * covered[1]
