"""A run's stages that leave checkpoints, by name: what files, run.json and the log call them, and their order."""

from dataclasses import dataclass

from kit.config.schema import Prune

STAGES = ("teacher", "distil", "prune", "finetune", "lowrank", "qat")  # in the order of a run
OTHER_LAYERS = ("lowrank", "qat")  # after which a student's are no more those that it was built with
AFTER_DISTILLING = ("prune", "lowrank", "quantize", "pack", "predict")  # sections; a student that is trained serves other values of theirs
REPEATED = ("prune", "finetune")  # may come in several steps, prune1 finetune1 prune2 …, of which the last has no number


@dataclass(frozen=True)
class Step:
    """One of the steps from the whole student to the target. prune, finetune: names of its stages. share: of the way, by ratio."""

    prune: str = "prune"
    finetune: str = "finetune"
    share: float = 1.0


def steps_of(prune: Prune | None) -> list[Step]:
    """The last step's stages have no number, so a run at once and the end of a run in steps are found by the same names."""
    if prune is None:
        return []
    earlier = [Step(f"prune{i}", f"finetune{i}", i / prune.steps) for i in range(1, prune.steps)]
    return [*earlier, Step()]


def up_to_pruning(prune: Prune | None) -> list[str]:
    """The stages whose student has its own layers, in order; those after them make thinner or folded ones of them."""
    return ["distil", *(stage for step in steps_of(prune) for stage in (step.prune, step.finetune))]


def kind_of(stage: str) -> str:
    """The stage without the number of its step."""
    return stage.rstrip("0123456789")
