"""The objective: terms by name and weight, combined as the recipe says, each logged by its name."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from kit.config.ramps import factor, is_off
from kit.config.terms import CE, OfMaps, OfStages, Term
from kit.distill.align import LOGITS, Ask, Seen, Taps, look, shapes, written_over
from kit.distill.panel import Panel
from kit.distill.terms import OF_LOGITS, OF_MAPS, names_of, taps
from kit.fuse import Fuse


class Objective:
    """What a student is trained on: `objective(images, labels, progress) -> (total, {term: value})`.

    The teacher is evaluated, frozen, and sees the student's view; it is not asked where no term wants it. Losses are in float32, under
    autocast too. `adapters` is all that is trained along. recall: (images, what asks the teacher) → what it says of them, which may be
    known without asking. fuse: what compiles it; `handles` then are of hooks on both networks.

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
        recall: Callable[[Tensor, Ask], Seen] | None = None,
        fuse: Fuse | None = None,
    ):
        self.student, self.terms, self.gamma_penalty, self.recall = student, terms, gamma_penalty, recall
        self.teacher = teacher if isinstance(teacher, Panel) else Panel([teacher])
        self.progress = -1.0
        self.computed: tuple[bool, ...] = ()
        device = next(student.parameters()).device
        self.weights = torch.zeros(len(terms), device=device)
        ours, theirs = tapped(terms, "student"), tapped(terms, "teacher")
        first = self.teacher.first if theirs else None  # there may be no teacher
        our_shapes, their_shapes = shapes(student, ours, image_size), shapes(self.teacher, theirs, image_size, first)
        self.adapters, losses = nn.ModuleList(), []
        for term in terms:
            if isinstance(term, (OfMaps, OfStages)):
                wanted = [our_shapes[name] for name in taps(term.student)], [their_shapes[name] for name in taps(term.teacher)]
                module = OF_MAPS[type(term)](term, *wanted).to(device)
                self.adapters.append(module)
                losses.append(loss_of_maps(term, module))
            else:
                losses.append(loss_of_logits(term))
        self.parts = list(zip(names_of(terms), losses, strict=True))
        copied, theirs_copied = written_over(student, ours, image_size), written_over(self.teacher, theirs, image_size, first)
        self.look_ours: Ask
        self.look_theirs: Ask
        if fuse:
            self.weigh = fuse(self.compute)
            self.look_ours = our_taps = Taps(student, ours, copied=copied)
            self.look_theirs = their_taps = Taps(self.teacher, theirs, first, theirs_copied)
            self.handles = our_taps.handles + their_taps.handles
        else:
            self.weigh, self.handles = self.compute, []
            self.look_ours = partial(look, student, ours, copied=copied)
            self.look_theirs = partial(look, self.teacher, theirs, inside=first, copied=theirs_copied)

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """images: normalised [N, 3, H, W]. progress: share of the plan's epochs that is over, for the ramps.

        A term whose ramp stays at zero is not computed, and logged as 0: before it starts it has nothing to be judged by.
        """
        self.prepare(progress)
        return self.weigh(images, labels)

    def compute(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same where the terms have been prepared; nothing in it changes from one epoch to the next but tensors."""
        asked = any(on and not isinstance(term, CE) for on, term in zip(self.computed, self.terms, strict=True))
        theirs = self.ask(images) if asked else {}
        ours = {name: value.float() for name, value in self.look_ours(images).items()}
        values: dict[str, Tensor] = {}
        total = images.new_zeros(())
        with torch.autocast(images.device.type, enabled=False):
            for on, weight, (name, loss) in zip(self.computed, self.weights, self.parts, strict=True):
                values[name] = loss(ours, theirs, labels) if on else images.new_zeros(())
                total = total + weight * values[name]
            if self.gamma_penalty:
                values["gamma"] = gammas(self.student)
                total = total + self.gamma_penalty * values["gamma"]
        return total, values

    def prepare(self, progress: float) -> tuple[bool, ...]:
        """Bring the terms' weights to a share of the plan, in place, so that a recorded step reads them; tells which terms are computed."""
        if progress != self.progress:
            self.weights.copy_(torch.tensor([term.weight * factor(term.ramp, progress) for term in self.terms]))
            self.progress, self.computed = progress, tuple(not is_off(term.ramp, progress) for term in self.terms)
        return self.computed

    def ask(self, images: Tensor) -> Seen:
        """What the teacher says of a view: logits, and the maps that the terms want."""
        return torch.compiler.disable(self.recall)(images, self.look) if self.recall else self.look(images)

    @torch.no_grad()
    def look(self, images: Tensor) -> Seen:
        return {name: value.float() for name, value in self.look_theirs(images).items()}


def tapped(terms: Sequence[Term], side: Literal["student", "teacher"]) -> list[str]:
    """The modules of one side whose maps the terms want, each once."""
    return list(dict.fromkeys(name for term in terms if isinstance(term, (OfMaps, OfStages)) for name in taps(getattr(term, side))))


def loss_of_logits(term: Term) -> Callable[[Seen, Seen, Tensor], Tensor]:
    return lambda ours, theirs, labels: OF_LOGITS[type(term)](term, ours[LOGITS], theirs.get(LOGITS), labels)


def loss_of_maps(term: OfMaps | OfStages, module: nn.Module) -> Callable[[Seen, Seen, Tensor], Tensor]:
    return lambda ours, theirs, labels: module([ours[name] for name in taps(term.student)], [theirs[name] for name in taps(term.teacher)])


def gammas(model: nn.Module) -> Tensor:
    """Σ|γ| over the batch norms that train: network slimming's sparsity term (Liu et al. 2017, equation 1); 0 where there is none."""
    norms = [m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    return torch.stack([g.abs().sum() for g in norms]).sum() if norms else next(model.parameters()).new_zeros(())
