"""Losses of feature maps, pure and named as in the papers. Maps are [N, C, H, W], embeddings [N, C]; each returns a scalar.

In several processes the terms that compare photos (SP, RKD, CRD) see each process's share of the batch.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.distill.align import pool_to

LEVELS = (4, 2, 1)  # sides of HCL's pooled maps


def channels_last(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> Tensor:
    """An element-wise loss of maps seen as [N, H, W, C]: torch gives its gradient in the plain order of the view, and batch norm's backward
    takes twelve times as long on a CPU when that is not channels last. Compiled, the order is torch's to choose, and it takes the plain one
    where it meets a permutation."""
    if torch.compiler.is_compiling():
        return loss(student, teacher)
    return loss(student.permute(0, 2, 3, 1), teacher.permute(0, 2, 3, 1))


def attention(features: Tensor) -> Tensor:
    """[N, H·W]: where a map is strong, Σ over channels of the squares, of length one."""
    return F.normalize(features.square().sum(1).flatten(1))


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (Qˢ/‖Qˢ‖ - Qᵀ/‖Qᵀ‖)² over photos and places, of maps of one size: Zagoruyko and Komodakis, "Paying More Attention to
    Attention", ICLR 2017, section 3.1, in the form of the authors' code.

    The term's weight is that code's β, 1000 as published; by equation 2, which has norms and β/2, it would weigh a hundredfold.
    """
    return (attention(student) - attention(teacher)).square().mean()


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """‖Gᵀ - Gˢ‖² / N² with G the rows of A·Aᵀ at length one, Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019,
    section 3. Widths and sizes may differ."""
    ours, theirs = (F.normalize(a @ a.T) for a in (student.flatten(1), teacher.flatten(1)))
    return (theirs - ours).square().sum() / len(student) ** 2


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of the embeddings' distances over their mean, Park et al., "Relational Knowledge Distillation", CVPR 2019, section 3.2.1.

    A mean over all pairs, a photo with itself among them, as in the authors' code.
    """
    return F.smooth_l1_loss(distances(student), distances(teacher))


def distances(embeddings: Tensor) -> Tensor:
    """[N, N], over the mean of those between two photos."""
    n, squares = len(embeddings), embeddings.square().sum(1)
    apart = (squares[:, None] + squares[None] - 2 * embeddings @ embeddings.T).clamp(min=1e-12).sqrt()
    apart = apart * (1 - torch.eye(n, device=apart.device, dtype=apart.dtype))
    return apart / (apart.sum() / (n * (n - 1)))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber of the cosines of the angles that three embeddings form, Park et al. 2019, section 3.2.2. A mean over all triples."""
    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def cosines(embeddings: Tensor) -> Tensor:
    """[N, N, N]: at photo i, between the directions to j and k."""
    towards = F.normalize(embeddings[None] - embeddings[:, None], dim=2)
    return towards @ towards.transpose(1, 2)


def crd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """-log h(i, i) - Σ over j ≠ i of log(1 - h(i, j)), Tian et al., "Contrastive Representation Distillation", ICLR 2020, the critic's
    objective with h = e^(s·t/τ) / (e^(s·t/τ) + N/M); embeddings are brought to length one.

    Without the paper's memory of the whole data set, which would be state that every checkpoint holds: the batch stands for it, so the
    negatives are its other photos, N = B - 1 and M = B.
    """
    size = len(student)
    score = F.normalize(student) @ F.normalize(teacher).T / temperature - math.log((size - 1) / size)
    return F.binary_cross_entropy_with_logits(score, torch.eye(size, device=score.device), reduction="sum") / size  # h = σ(score)


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squares of two maps of one shape and of their averages over 4×4, 2×2 and 1×1 parts, each level at half the weight of the one
    before, over the weights' sum: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, section 3.3 and the authors'
    code."""
    sizes = [student.shape[2:], *((side, side) for side in LEVELS if side < student.shape[2])]
    weights = [0.5**i for i in range(len(sizes))]
    losses = (channels_last(F.mse_loss, pool_to(student, size), pool_to(teacher, size)) for size in sizes)
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def afd(student: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
    """Σ over the student's stages of their shares times the mean square between attention maps, Ji et al., "Show, Attend and Distill",
    AAAI 2021, section 3, squared as in the authors' code.

    Args:
        student: attention maps of its S stages, [N, S, H·W]. teacher: of one stage, [N, H·W]. shares: [N, S], that sum to one.
    """
    return ((student - teacher[:, None]).square().mean(2) * shares).sum(1).mean()
