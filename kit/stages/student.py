"""The student's training stages: distil, and distil the pruned one again."""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from kit.compress.lsq import with_steps
from kit.config.schema import Config, Prune, Quantize, Train
from kit.config.terms import SimKD
from kit.distill.align import classifier, take_classifier
from kit.distill.objective import Objective
from kit.distill.replay import Replay
from kit.errors import KitError
from kit.models.students import FrozenStem, build_student, count_parameters, widths_of
from kit.models.widths import widths_for
from kit.rng import derive
from kit.session import Session
from kit.stages.photos import Material, make_order
from kit.stages.rehearsal import rehearse
from kit.stages.teacher import on_device
from kit.stages.training import train


def check_terms(config: Config, teacher: nn.Module) -> None:
    """Whether the recipe's terms fit its networks: stages that are there, a classifier that can be kept.

    Raises:
        KitError: with the name of what does not fit, and what would.
    """
    with torch.device("meta"):  # shapes alone
        classes = classifier(teacher).out_features
        student = build_student(config.student.name, widths_for(config.student, classes), classes)
        teacher = copy.deepcopy(teacher).to("meta")
        prepare(student, teacher, config)
        Objective(student, teacher, config.distill, config.data.image_size)


def prepare(student: nn.Module, teacher: nn.Module, config: Config) -> None:
    """What a new student takes over from its teacher: a frozen stem, or SimKD's classifier."""
    for stem in [module for module in student.modules() if isinstance(module, FrozenStem)]:
        if not isinstance(getattr(teacher, "conv1", None), nn.Conv2d):
            raise KitError(
                f"The student {config.student.name!r} takes its stem from a ResNet, and this teacher is none. Name a ResNet first with "
                "--teacher, or another student with --set student.name=…"
            )
        stem.copy_from(teacher)
    if any(isinstance(term, SimKD) for term in config.distill):
        take_classifier(student, teacher)


def distil(session: Session, material: Material, teachers: Sequence[nn.Module]) -> nn.Module:
    """The recipe's student under the recipe's objective."""
    config = session.config
    with session.stage("distil"):
        torch.manual_seed(derive(config.train.seed, "student"))
        classes = len(material.dataset.classes)
        student = build_student(config.student.name, widths_for(config.student, classes), classes)
        prepare(student, teachers[0], config)
        penalty = config.prune.gamma_penalty if config.prune else 0.0
        learn(session, material, "distil", student, teachers, config.train, penalty)
    return student


def finetune(session: Session, material: Material, student: nn.Module, teachers: Sequence[nn.Module], stage: str) -> nn.Module:
    """Distil the pruned student again. Its optimiser is new and holds *its* weights: the course's held the network from before."""
    config = session.config
    if config.prune.finetune_epochs:
        with session.stage(stage):
            learn(session, material, stage, student, teachers, finetuning(config.train, config.prune), 0.0)
    return student


def train_quantized(session: Session, material: Material, student: nn.Module, teachers: Sequence[nn.Module]) -> nn.Module:
    """Distil the student a last time with its norms folded and its weights on the grids that they are packed on."""
    config, parameters = session.config, count_parameters(student)
    stepped = with_steps(student, config.pack)
    with session.stage("qat"):
        learn(session, material, "qat", stepped, teachers, quantizing(config.train, config.quantize), 0.0)
        session.note("qat", parameters=parameters)  # folding and steps neither take from the count nor add to it
    return stepped


def quantizing(train: Train, quantize: Quantize) -> Train:
    """The plan of training with fake quantization: the run's own with fewer epochs, a smaller rate and no warm-up."""
    shorter = {"epochs": quantize.train_epochs, "lr": quantize.train_lr, "warmup_epochs": 0, "patience": None}
    return Train.model_validate(train.model_dump() | shorter)


def finetuning(train: Train, prune: Prune) -> Train:
    """The plan of fine-tuning: the run's own with fewer epochs, a smaller rate and no warm-up."""
    shorter = {"epochs": prune.finetune_epochs, "lr": prune.finetune_lr, "warmup_epochs": 0, "patience": None}
    return Train.model_validate(train.model_dump() | shorter)


def learn(
    session: Session, material: Material, stage: str, student: nn.Module, teachers: Sequence[nn.Module], plan: Train, gamma_penalty: float
) -> None:
    """Distil `student` in place, leaving it with the weights of its best epoch; skipped where the result is there."""
    checkpoints, widths = session.checkpoints(stage), widths_of(student)
    if done := checkpoints.result():
        session.write_metrics(stage, done["history"])
    else:
        student.to(session.device.device)
        looking, config = on_device(teachers, session), session.config
        session.world.lead(lambda: rehearse(session, material, stage, student, looking))
        torch.manual_seed(derive(plan.seed, f"{stage} adapters"))
        with replayed(session, material, stage, plan) as replay:
            objective = Objective(student, looking, config.distill, config.data.image_size, gamma_penalty, replay)
            wrap = replay.drawn if replay else lambda batches: batches
            state = train(session, material, stage, student, objective, plan, config.data.augment, objective.adapters, wrap)
        done = {"widths": widths} | state.state()
        checkpoints.finish(state.step, done)
    student.load_state_dict(done["best"]["weights"])
    session.note(stage, accuracy=done["best"]["accuracy"], epoch=done["best"]["epoch"], parameters=count_parameters(student))


@contextmanager
def replayed(session: Session, material: Material, stage: str, plan: Train) -> Iterator[Replay | None]:
    """The teacher's stored logits, where the recipe stores them: a file beside the decoded photos, named for all that it depends on.

    Bits depend on the device, its precision and threads, and on how a batch is shared by processes, so these are in the name too.
    """
    config, order = session.config, make_order(session, material, plan)
    if not config.teacher.store:
        yield None
        return
    mine = range(order.batch_size)[order.share]
    depends = {
        "teacher": session.identity["teacher"],
        "photos": session.identity["photos"],
        "flip": config.teacher.flip,
        "data": config.settled().data.model_dump(mode="json", exclude={"workers"}),
        "order": [order.seed, order.batch_size, mine.start, mine.stop, plan.balanced, plan.final_fit],
        "device": session.device.choices(),
    }
    name = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    file = material.cache / f"teacher-{name}.{config.teacher.store}"
    replay = Replay(file, (len(mine), len(material.dataset.classes)), config.teacher.store, session.log)
    try:
        yield replay
    finally:
        replay.close()
        session.log(f"{stage}: the teacher's logits of {replay.replayed:,} steps were read from {file}, of {replay.computed:,} computed")
