"""Losses, pure and named as in the papers. Logits are [N, K], feature maps [N, C, H, W]; each returns a scalar, the mean over N."""

import torch.nn.functional as F
from torch import Tensor


def ce(student: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy with the labels, smoothed (Szegedy et al. 2016, section 7): the mean over what is labelled, 0 where nothing is.

    labels: int64 [N], -1 for none; or shares of the classes [N, K], whose rows sum to 1, or to less where an unlabelled photo is mixed in.
    """
    if labels.is_floating_point():
        known = labels.sum(1, keepdim=True)
        targets = (1 - smoothing) * labels + smoothing / labels.shape[1] * known
        return -(targets * F.log_softmax(student, 1)).sum() / known.sum().clamp(min=1e-6)
    total = F.cross_entropy(student, labels, label_smoothing=smoothing, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), Hinton et al. 2015, section 2."""
    p = F.log_softmax(student / temperature, dim=1)
    q = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(p, q, reduction="batchmean", log_target=True)


def smooth_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss with β = 1 on feature maps, as seed 002 aligns its layers."""
    return F.smooth_l1_loss(student, teacher)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets' hint loss, Romero et al. 2015, equation 3, as a mean instead of half a sum."""
    return F.mse_loss(student, teacher)
