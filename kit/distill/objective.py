"""The objective: terms by name and weight, combined as the recipe says, each logged by its name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kit.config.schema import CE, KD, Hint, Term
from kit.distill import losses
from kit.distill.align import LOGITS, Adapters, channels, same_size, tap

RAMPS = {
    "constant": lambda p: 1.0,
    "p^2(1-p^2)": lambda p: p**2 * (1 - p**2),
    "p^4": lambda p: p**4,
}
DISTANCES = {"smooth_l1": losses.smooth_l1, "mse": losses.mse}


class Objective:
    """What a student is trained on: `objective(images, labels, progress) -> (total, {term: value})`.

    The teacher is evaluated, frozen, and sees the student's view. Feature maps reach it in its own precision and come back in
    float32.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, terms: Sequence[Term], image_size: int, gamma_penalty: float = 0.0):
        self.terms, self.student_model, self.gamma_penalty = terms, student, gamma_penalty
        self.hints = [term for term in terms if isinstance(term, Hint)]
        self.student = tap(student, list(dict.fromkeys(h.student for h in self.hints)))
        self.teacher = tap(teacher, list(dict.fromkeys(h.teacher for h in self.hints))).eval()
        self.teacher_like = next(teacher.parameters())
        ours = channels(self.student, [h.student for h in self.hints], image_size, next(student.parameters()))
        theirs = channels(self.teacher, [h.teacher for h in self.hints], image_size, self.teacher_like)
        self.adapters = Adapters(list(zip(ours, theirs, strict=True))).to(self.teacher_like.device)

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """images: normalised [N, 3, H, W]. progress: share of the plan's epochs that is over, for the ramps."""
        theirs = self.look(images)
        ours = self.student(images)
        values: dict[str, Tensor] = {}
        total = images.new_zeros(())
        adapted = iter(self.adapters([ours[h.student] for h in self.hints]))
        for term in self.terms:
            match term:
                case CE():
                    name, value = "ce", losses.ce(ours[LOGITS], labels, term.smoothing)
                case KD():
                    name, value = "kd", losses.kd(ours[LOGITS], theirs[LOGITS], term.temperature)
                case Hint():
                    name, value = f"hint {term.teacher}", distance(term, *same_size(next(adapted), theirs[term.teacher]))
            values[name] = value
            total = total + term.weight * RAMPS[term.ramp](progress) * value
        if self.gamma_penalty:
            values["gamma"] = gammas(self.student_model)
            total = total + self.gamma_penalty * values["gamma"]
        return total, values

    @torch.no_grad()  # not inference mode: its tensors can't enter the student's losses
    def look(self, images: Tensor) -> dict[str, Tensor]:
        return {name: value.float() for name, value in self.teacher(images.to(self.teacher_like.dtype)).items()}


def distance(term: Hint, ours: Tensor, theirs: Tensor) -> Tensor:
    """Seen as [N, H, W, C]: torch's element-wise losses give their gradient in the plain order of the view, and batch norm's backward
    takes twelve times as long on a CPU when that is not channels last."""
    return DISTANCES[term.distance](ours.permute(0, 2, 3, 1), theirs.permute(0, 2, 3, 1))


def gammas(model: nn.Module) -> Tensor:
    """Σ|γ| over the batch norms that train: network slimming's sparsity term (Liu et al. 2017, equation 1)."""
    norms = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    return torch.stack([g.abs().sum() for g in norms]).sum()
