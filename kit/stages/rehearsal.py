"""The finish rehearsed before training, on a few photos: what must be kept for it is then measured on this machine, and what would
crash in the ninth hour crashes in the first minute.
"""

import copy

from torch import Tensor, nn

from kit import predict
from kit.compress.pack import unpack
from kit.config.stages import up_to_pruning
from kit.distill.objective import Objective
from kit.models.look import evaluated
from kit.session import Session
from kit.stages.packing import pack_student, rounded
from kit.stages.photos import Material, make_order, make_views, mixing
from kit.stages.prune import bytes_allowed, cut, target_of, waits_for_pruning
from kit.train.budget import PAGE
from kit.train.gradients import Backward
from kit.train.loop import take_step
from kit.train.state import begin

PHOTOS = 256  # that it predicts


def rehearse(session: Session, material: Material, stage: str, student: nn.Module, teacher: nn.Module) -> None:
    """Prune, take one step, quantize, pack, load, predict a few. `teacher` as it looks on the device; nothing is changed or left.

    Raises:
        Suspended: the budget is over before the rehearsal is.
    """
    budget, config = session.budget, session.config
    owed = ("rehearsal", *session.owed(stage))  # how long it takes is known from the second one on
    final = student
    if config.prune and stage == "distil":
        budget.insist("the rehearsal of pruning", *owed)
        with budget.timed("prune"):  # and not within the rehearsal's seconds: the page adds up both
            likely = as_if_trained(student)
            final, _ = cut(session, material, likely, target_of(config, likely, material.dataset.classes), bytes_allowed(config))
    with budget.timed("rehearsal"):
        if config.prune and config.prune.finetune_epochs and final is not student:
            step_once(session, material, final, teacher)
        budget.insist("the rehearsal of the hand-in", *owed)
        over = waits_for_pruning(config, student, material.dataset.classes)
        hand_in = rehearse_hand_in(session, material, final)
        if final is not student and not over:  # until it is pruned the whole one is handed in
            hand_in = max(hand_in, rehearse_hand_in(session, material, student))
        budget.longest[f"{stage} evaluate"] = seconds_a_photo(session, material, student) * len(material.validation)
        page = budget.longest.setdefault("page", PAGE)  # an earlier session has measured it
        asked = len(up_to_pruning(config.prune))  # students of stages, for the page
        budget.longest["report"] = page + asked * budget.longest[f"{stage} evaluate"]
        # an oversized one prunes a copy; one on the grid isn't rounded, but the one before it is, and was rehearsed
        whole = hand_in + (budget.longest.get("prune", 0) if over else 0)
        budget.longest["hand in"] = max(whole, budget.longest.get("hand in", 0))  # an earlier stage's, or what a session measured


def as_if_trained(student: nn.Module) -> nn.Module:
    """A copy whose channels differ in weight: those of a new network are all alike, and none could be chosen."""
    student = copy.deepcopy(student)
    for norm in student.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return student


def step_once(session: Session, material: Material, student: nn.Module, teacher: nn.Module) -> None:
    config, plan = session.config, session.config.train
    objective = Objective(student, teacher, config.distill, config.data.image_size)
    order = make_order(session, material, "distil", plan, config.data.augment)
    state = begin(student, objective.adapters, plan, order.steps_per_epoch, session.device)
    views = make_views(session, material, order, config.data.augment)
    batches = mixing(views, order, config.data.augment, len(material.dataset.classes))
    learn = Backward(objective, state.optimizer, state.scaler, session.device, plan.clip_norm)

    def share(step: int) -> tuple[Tensor, Tensor]:
        """As many photos as each process has in training: this one draws for all of them."""
        images, labels = batches(step)
        each = len(images) // session.world.size
        return images[:each], labels[:each]

    take_step(state, learn, share, session.world)


def rehearse_hand_in(session: Session, material: Material, student: nn.Module) -> float:
    """Seconds that packing and predicting all photos will take."""
    budget, config = session.budget, session.config
    file, start = session.out / ".rehearsal.kit", budget.clock()
    pack_student(file, config, rounded(session, material, student), material.dataset.classes)
    packed = unpack(file).student.to(session.device.device)
    file.unlink()
    packing = budget.clock() - start
    each = seconds_a_photo(session, material, packed)
    views = config.predict.crops * (2 if config.predict.flip else 1)
    compared = 2 * len(material.validation)  # before and after packing, one view
    students = 1 + bool(config.lowrank) + bool(config.quantize.train_epochs)
    choosing = students * (packing + each * views * len(material.validation)) if students > 1 and not config.train.final_fit else 0
    return packing + each * (views * (len(material.validation) + len(material.evaluation)) + compared) + choosing


def seconds_a_photo(session: Session, material: Material, network: nn.Module) -> float:
    """That a network on the device takes to predict, in evaluation mode."""
    clock, some = session.budget.clock, min(PHOTOS, len(material.validation))
    with evaluated(network):
        predict.logits(network, material.validation, session.config.data, limit=some)  # once for what only the first time costs
        start = clock()
        predict.logits(network, material.validation, session.config.data, limit=some)
        return (clock() - start) / some
