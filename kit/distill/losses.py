"""Losses of logits, pure and named as in the papers. Logits are [N, K]; each returns a scalar, the mean over N.

In several processes the terms that compare photos (DIST's γ, MLKD's batch and classes) see each process's share of the batch, and cross
entropy's mean is over what is labelled there: dividing by the whole batch's count would be a message more at every step.
"""

from collections.abc import Sequence

import torch
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


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """½‖student - teacher‖², Ba and Caruana, "Do Deep Nets Really Need to be Deep?", NeurIPS 2014, equation 1."""
    return (student - teacher).square().sum(1).mean() / 2


def standardise(logits: Tensor) -> Tensor:
    """Each row's z-scores: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024, section 4, before the softmax.

    The spread is the sample's (K - 1), as in the authors' code.
    """
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    """T² · (α·TCKD + β·NCKD), Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equation 7, with T² as in the authors' code.

    TCKD: KL of (target, all others) as two classes. NCKD: KL among the others alone.
    labels: int64 [N], or shares [N, K] of mixed photos, of which the largest is the target. Without a label (-1, or where an unlabelled
    photo has the larger share) it is what the teacher says.
    """
    if labels.ndim == 2:
        labels = labels.argmax(1).where(labels.sum(1) >= 0.5, -1)
    target, classes = labels.where(labels >= 0, teacher.argmax(1))[:, None], student.shape[1]
    others = (target + torch.arange(1, classes, device=student.device)) % classes
    both, rest = [], []
    for logits in (student, teacher):
        logs = F.log_softmax(logits / temperature, dim=1)
        both.append(torch.cat((logs.gather(1, target), logs.gather(1, others).logsumexp(1, keepdim=True)), dim=1))
        rest.append(F.log_softmax(logits.gather(1, others) / temperature, dim=1))
    tckd, nckd = (F.kl_div(p, q, reduction="batchmean", log_target=True) for p, q in (both, rest))
    return temperature**2 * (alpha * tckd + beta * nckd)


def dist(student: Tensor, teacher: Tensor, temperature: float, beta: float, gamma: float) -> Tensor:
    """T² · (β·inter + γ·intra), Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, section 3, with T² as in
    the authors' code: 1 - Pearson's correlation of the softmax's rows (inter) and of its columns (intra)."""
    p, q = (F.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * (beta * (1 - pearson(p, q)) + gamma * (1 - pearson(p.T, q.T)))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Mean correlation of the rows of two matrices."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)).mean()


def mlkd(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Σ over temperatures of KD + ‖Gᵀ - Gˢ‖² / N + ‖Mᵀ - Mˢ‖² / K, Jin et al., "Multi-Level Logit Distillation", CVPR 2023, section 3,
    with G = p·pᵀ between photos and M = pᵀ·p between classes.

    Left out: the second, strongly augmented view and the confidence masks of the authors' code.
    """
    total = student.new_zeros(())
    for temperature in temperatures:
        p, q = (F.softmax(logits / temperature, dim=1) for logits in (student, teacher))
        batch = (q @ q.T - p @ p.T).square().sum() / len(p)
        classes = (q.T @ q - p.T @ p).square().sum() / p.shape[1]
        total = total + kd(student, teacher, temperature) + batch + classes
    return total
