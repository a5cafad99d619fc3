"""The objective: terms by name and weight, combined as the recipe says, each logged by its name."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kit.config.ramps import factor
from kit.config.terms import CE, Term
from kit.distill.align import LOGITS, look, shapes
from kit.distill.panel import Panel
from kit.distill.terms import OF_LOGITS, OF_MAPS, names_of, taps

# (images, the teacher) → its logits of them, which may be known without asking
Recall = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


class Objective:
    """What a student is trained on: `objective(images, labels, progress) -> (total, {term: value})`.

    The teacher is evaluated, frozen, and sees the student's view; where no term asks it does not look. Losses are in float32, under
    autocast too. `adapters` is all that is trained along.

    Raises:
        KitError: a term names a module that a network does not have, or that gives no map.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        terms: Sequence[Term],
        image_size: int,
        gamma_penalty: float = 0.0,
        recall: Recall | None = None,
    ):
        self.student, self.terms, self.gamma_penalty, self.recall = student, terms, gamma_penalty, recall
        self.teacher = teacher if isinstance(teacher, Panel) else Panel([teacher])
        self.names = names_of(terms)
        of_maps = [term for term in terms if type(term) in OF_MAPS]
        self.ours, self.theirs = (
            list(dict.fromkeys(name for term in of_maps for name in taps(getattr(term, side)))) for side in ("student", "teacher")
        )
        self.teacher_looks = any(not isinstance(term, CE) for term in terms)
        ours, theirs = shapes(student, self.ours, image_size), shapes(self.teacher.first, self.theirs, image_size)
        self.adapters = nn.ModuleList(
            OF_MAPS[type(term)](term, [ours[name] for name in taps(term.student)], [theirs[name] for name in taps(term.teacher)])
            for term in of_maps
        ).to(next(student.parameters()).device)

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """images: normalised [N, 3, H, W]. progress: share of the plan's epochs that is over, for the ramps."""
        theirs = self.ask(images)
        ours = {name: value.float() for name, value in look(self.student, self.ours, images).items()}
        values: dict[str, Tensor] = {}
        total = images.new_zeros(())
        with torch.autocast(images.device.type, enabled=False):
            modules = iter(self.adapters)
            for name, term in zip(self.names, self.terms, strict=True):
                if type(term) in OF_MAPS:
                    maps = [ours[tap] for tap in taps(term.student)], [theirs[tap] for tap in taps(term.teacher)]
                    values[name] = next(modules)(*maps)
                else:
                    values[name] = OF_LOGITS[type(term)](term, ours[LOGITS], theirs.get(LOGITS), labels)
                total = total + term.weight * factor(term.ramp, progress) * values[name]
            if self.gamma_penalty:
                values["gamma"] = gammas(self.student)
                total = total + self.gamma_penalty * values["gamma"]
        return total, values

    @torch.no_grad()
    def ask(self, images: Tensor) -> dict[str, Tensor]:
        """What the teacher says of a view: logits, and the maps that the terms want."""
        if not self.teacher_looks:
            return {}
        if self.recall:
            return {LOGITS: self.recall(images, self.teacher)}
        return {name: value.float() for name, value in look(self.teacher, self.theirs, images, self.teacher.first).items()}


def gammas(model: nn.Module) -> Tensor:
    """Σ|γ| over the batch norms that train: network slimming's sparsity term (Liu et al. 2017, equation 1)."""
    norms = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    return torch.stack([g.abs().sum() for g in norms]).sum()
