"""The provisional submission: when a session's time is over, the best student so far is handed in."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kit.compress.lowrank import parameters_at, ranks_in
from kit.compress.lsq import with_steps
from kit.compress.prune import Target
from kit.config.competitions import competition
from kit.config.schema import Config
from kit.config.stages import OTHER_LAYERS, up_to_pruning
from kit.errors import KitError
from kit.models.recognise import as_network
from kit.models.students import count_parameters
from kit.names import SUBMISSION
from kit.session import Session
from kit.stages.finish import quantize, submit
from kit.stages.photos import Material
from kit.stages.prune import bytes_allowed, cut, waits_for_pruning
from kit.stages.student import factorised
from kit.train.checkpoint import weights_in


@dataclass(frozen=True)
class SoFar:
    """What a stage has come to: its best epoch, else its newest weights. accuracy: on validation; after a final fit it is 0, and of stages
    that keep the limit the latest counts. file: the checkpoint's name."""

    file: str
    accuracy: float
    weights: dict[str, Tensor]

    def student(self, config: Config) -> nn.Module:
        """In evaluation mode, as wide as its weights are."""
        student = as_network(self.weights, config.student.name)
        assert student is not None, "a run's own checkpoint is of its student"
        return student


def hand_in_best_so_far(session: Session, material: Material | None, submissions: Path | None) -> None:
    """Every session ends with a submission: a provisional one, from the best weights so far that keep the limit. Where nothing can be
    handed in yet the log says why.

    Raises:
        KitError: the budget was over before there was anything to hand in or to go on from: the same again would come no further.
    """
    asked, why = session.budget.stop, str(session.suspended)  # asked to stop, for whatever reason: not too little time
    reason = why[0].upper() + why[1:]
    if material is None and not asked:
        remedy = "What an earlier session left is untouched: run" if session.begun_with else "Run"
        raise KitError(f"{reason}. {remedy} the same command with a larger --budget.")
    in_time = material is not None and bool(asked or session.budget.enough_for("hand in"))
    stages = reversed(up_to_pruning(session.config.prune)) if in_time else ()
    found = [each for stage in stages if (each := so_far(session, stage))]
    if in_time and not (found or asked or session.checkpoints("teacher").files()):
        raise KitError(
            f"{reason}, and nothing is trained yet that could be handed in. The decoded photos and what was saved are "
            "kept: run the same command again with a larger --budget."
        )
    session.log(f"suspended: {why}; the same command goes on from here")
    if material and found:
        with session.budget.timed("hand in"):
            students, file = best_of(session, material, found)
            submit(session, material, quantize(session, material, students, file), "suspended", submissions)
    elif (session.out / SUBMISSION).is_file():
        session.log("the submission of the session before stays")
    else:
        missing = "no student is trained that could be handed in" if in_time else "there was no time for one"
        session.log(f"no submission yet: {missing}")


def best_of(session: Session, material: Material, found: list[SoFar]) -> tuple[dict[str, nn.Module], str]:
    """{stage: student} to choose from when they are packed, and the checkpoint of the one before its layers were changed.

    found: the latest stage first; where none keeps the limit, a copy does.
    """
    config = session.config
    students = [each.student(config) for each in found]
    fits = [not waits_for_pruning(config, student, material.dataset.classes) for student in students]
    best = max(range(len(found)), key=lambda i: (fits[i], found[i].accuracy))
    later = of_later_stages(session, students[0]) if fits[best] or config.lowrank else {}
    if fits[best]:
        return {"training": students[best]} | later, found[best].file
    if later:  # thin layers keep the limit
        return later, found[0].file
    return copy_within_limit(session, material, students[best]), found[best].file


def copy_within_limit(session: Session, material: Material, student: nn.Module) -> dict[str, nn.Module]:
    """{stage: a copy} of a student that is too large as yet, made for this submission alone: what its plan will do later is done to it."""
    config = session.config
    if config.lowrank and not config.prune:  # a plan that does both prunes within the limit, and may be thin enough only then
        thin = factorised(student, config).eval()
        left = parameters_at(student, ranks_in(thin))
        session.log(f"a copy's layers were made thinner for this submission: {left:,} parameters")
        return {"lowrank": thin}
    target = Target(competition(config.whose_limit).max_parameters)
    slimmer, widths = cut(session, material, student, target, bytes_allowed(config), trained_later=False)
    session.log(f"a copy was pruned to {count_parameters(slimmer):,} parameters for this submission, widths {list(widths)}")
    return {"training": slimmer.eval()}


def of_later_stages(session: Session, student: nn.Module) -> dict[str, nn.Module]:
    """{stage: what it has made so far of the last pruning's student}, of the stages that change its layers. Their accuracies are no
    measure beside the others': of weights on grids, or of fewer weights. They are compared once they are packed."""
    found, (thin, on_grid) = {}, (so_far(session, stage) for stage in OTHER_LAYERS)
    if session.config.lowrank and (thin or on_grid):  # thinner layers that aren't trained leave no checkpoint of their own
        student = factorised(student, session.config)
        if thin:
            student.load_state_dict(thin.weights)
        found["lowrank"] = student.eval()
    if on_grid:
        student = with_steps(student, session.config.pack)
        student.load_state_dict(on_grid.weights)
        found["qat"] = student.eval()
    return found


def so_far(session: Session, stage: str) -> SoFar | None:
    """What a stage has come to; None before its first step."""
    checkpoints = session.checkpoints(stage)
    state = checkpoints.result() or checkpoints.load()
    if state is None or state.get("step") == 0:  # saved before the first step: it knows nothing
        return None
    return SoFar(checkpoints.files()[-1].path.name, state["best"]["accuracy"] or 0.0, weights_in(state))
