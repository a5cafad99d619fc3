"""The story of a run: photos in, a checked submission out.

    photos → teacher → distil → prune → finetune → (low rank) → (train quantized) → quantize → submit

A stage is skipped when its result is there and resumed when it is half there. The prediction is made with the network that was read
back from the packed file, the thing that would be handed in.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kit.config.schema import Config
from kit.config.stages import steps_of
from kit.console import Log
from kit.device import shortages_named
from kit.errors import Suspended
from kit.names import LOG
from kit.report.write import report
from kit.session import Watch, alone, open_session
from kit.stages.finish import quantize, submit
from kit.stages.history import sum_up
from kit.stages.photos import Material, read_photos
from kit.stages.provisional import hand_in_best_so_far
from kit.stages.prune import prune
from kit.stages.refusals import check_photos, check_recipe
from kit.stages.student import distil, finetune, train_factorised, train_quantized
from kit.stages.teacher import get_teachers
from kit.takeover import take_over
from kit.train.budget import Budget
from kit.world import joined


@shortages_named()
def run(
    config: Config,
    data: Path,
    out: Path,
    *,
    cache: Path,
    budget: Budget,
    teacher_files: Sequence[Path] = (),
    begin: Path | None = None,
    submissions: Path | None = None,
    attached: Sequence[Path] = (),
    least_step: int = 0,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """One session of a run. The same call again goes on where it stopped.

    Args:
        data: the data set lies in or below this folder.
        cache: where decoded photos are kept.
        teacher_files: weights, a student.kit, a run's folder or its checkpoint, each; several teach together. None: what lies beside the
            photos or in what is attached, or a teacher that the run trains.
        begin: a run's folder, a checkpoint or a student.kit, whose weights stand for the distilled student's. None: it is trained here.
        submissions: where a whole submission is filed with its provenance, None for nowhere.
        attached: folders that are searched for an earlier output of this run; the furthest wins, `out` included.
        least_step: refuse to begin from less than this step, counted over all stages.
        watch: asked after each epoch, with the stage and its history; a reason that it gives suspends the run there.
    Returns:
        run.json's content; its `state` is "done" or "suspended".
    Raises:
        KitError: a refusal, or a budget that was over before there was anything to hand in.
    """
    with budget.catching_signals(), joined() as world, ExitStack() as held:
        budget.world = world
        world.lead(lambda: held.enter_context(alone(out)))
        log = Log(out / LOG, silent=not world.first)
        check_recipe(config, log, teacher_files, begin)
        world.lead(lambda: take_over(config, attached, out, log))
        session = world.in_turn(lambda: open_session(config, out, budget, log, least_step, world, watch))
        material: Material | None = None
        with session.account():
            try:
                material = world.in_turn(lambda: read_photos(session, data, cache))  # the first decodes, the others read
                check_photos(session, material, begin)
                teachers = get_teachers(session, material, (data, *attached), teacher_files)
                student = distil(session, material, teachers, begin)
                for step in steps_of(config.prune):
                    slim = prune(session, material, student, step)
                    student = finetune(session, material, slim, teachers, step.finetune)
                if config.lowrank:
                    student = train_factorised(session, material, student, teachers)
                finished = {"training": student}
                if config.quantize.train_epochs:
                    finished["qat"] = train_quantized(session, material, student, teachers)
                world.lead(lambda: submit(session, material, quantize(session, material, finished), "done", submissions))
            except Suspended as pause:
                session.suspended = str(pause)
                world.lead(lambda: hand_in_best_so_far(session, material, submissions))
            world.lead(lambda: sum_up(session, material))
        world.lead(lambda: report(session, material))
    return session.record
