"""The student's training stages: distilled, then again with fewer channels, with thinner layers, and with its weights on their grids."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from kit.compress.fold import fold
from kit.compress.lowrank import factorise, parameters_at, ranks_in, ranks_of_energy, ranks_up_to, ranks_within
from kit.compress.lsq import with_steps
from kit.config.competitions import competition
from kit.config.schema import Config, LowRank, Train
from kit.config.stages import steps_of
from kit.config.terms import SimKD
from kit.device import Device
from kit.distill.align import take_classifier
from kit.distill.objective import Objective
from kit.distill.panel import Panel
from kit.errors import KitError
from kit.models.look import classifier, hooked
from kit.models.quick import Stem
from kit.models.students import FrozenStem, count_parameters, widths_of
from kit.models.widths import new_student
from kit.rng import derive
from kit.session import Session
from kit.stages.begin import take_weights
from kit.stages.packing import rounded
from kit.stages.photos import Material
from kit.stages.rehearsal import rehearse
from kit.stages.stored import stored_answers
from kit.stages.teacher import panel_of
from kit.stages.training import settle, train


def check_terms(config: Config, teacher: nn.Module) -> None:
    """Whether the recipe's terms fit its networks: stages that are there, a classifier that can be kept.

    Raises:
        KitError: with the name of what does not fit, and what would.
    """
    with torch.device("meta"):  # shapes alone
        classes = classifier(teacher).out_features
        student = new_student(config.student, classes)
        teacher = copy.deepcopy(teacher).to("meta")
        prepare(student, teacher, config)
        Objective(student, Panel([teacher], side=config.teacher.image_size), config.distill, config.data.image_size)


def prepare(student: nn.Module, teacher: nn.Module, config: Config) -> None:
    """What a new student takes over from its teacher: a frozen stem, or SimKD's classifier."""
    for stem in [module for module in student.modules() if isinstance(module, FrozenStem)]:
        theirs, norm = (getattr(teacher, name, None) for name in ("conv1", "bn1"))
        alike = isinstance(theirs, nn.Conv2d) and theirs.weight.shape == stem[0].weight.shape and isinstance(norm, nn.BatchNorm2d)
        if not alike:
            raise KitError(
                f"The student {config.student.name!r} takes its stem from a ResNet, {stem[0].out_channels} channels wide, and the first "
                "teacher has none like it. Name a ResNet-18 first with --teacher, leave that width, or choose another student with "
                "--set student.name=…"
            )
        stem.copy_from(teacher)
    if keeps_classifier(config):
        take_classifier(student, teacher)


def keeps_classifier(config: Config) -> bool:
    """Whether the student's classifier is its teacher's, and never trains."""
    return any(isinstance(term, SimKD) for term in config.distill)


def distil(session: Session, material: Material, teachers: Sequence[nn.Module], begin: Path | None = None) -> nn.Module:
    """The recipe's student under the recipe's objective; with `begin` the student that is there, as it was trained."""
    config = session.config
    if begin is None and "student" in session.begun_with:
        raise KitError(f"The run in {session.out} was begun with another's student: name it again with --begin, or choose another --out.")
    with session.stage("distil"):
        torch.manual_seed(derive(config.train.seed, "student"))
        student = new_student(config.student, len(material.dataset.classes))
        if begin:
            take_weights(session, material, student, begin)
            if keeps_classifier(config):
                classifier(student).requires_grad_(False)
            return student
        if teachers:
            prepare(student, teachers[0], config)
        learn(session, material, "distil", student, teachers, config.train, config.gamma_penalty)
    return student


def finetune(session: Session, material: Material, student: nn.Module, teachers: Sequence[nn.Module], stage: str) -> nn.Module:
    """Distil the pruned student again. Its optimiser is new and holds *its* weights: the course's held the network from before."""
    if plan := later_plans(session.config).get(stage):
        with session.stage(stage):
            learn(session, material, stage, student, teachers, plan, 0.0)
    return student


def factorised(student: nn.Module, config: Config) -> nn.Module:
    """A folded copy whose layers have the ranks that `config.lowrank` and the limit ask for; without that section its defaults. What never
    trains stays whole.

    Raises:
        KitError: even at rank one it has more parameters.
    """
    if keeps_classifier(config):
        classifier(student).requires_grad_(False)  # of one that was read from a checkpoint it is not known
    how, limit, folded = config.lowrank or LowRank(), competition(config.whose_limit).max_parameters, fold(student)
    if not how.parameters:
        thin = factorise(folded, ranks_up_to(folded, how.rank) if how.rank else ranks_of_energy(folded, how.energy))
        if not limit or parameters_at(student, ranks_in(thin)) <= limit:
            return thin
    return factorise(folded, ranks_within(student, min(filter(None, (how.parameters, limit)))))


def train_factorised(session: Session, material: Material, student: nn.Module, teachers: Sequence[nn.Module]) -> nn.Module:
    """The student's layers as thinner ones, distilled as they are: with their norms folded, as they are packed."""
    config, before = session.config, count_parameters(student)
    with session.stage("lowrank"):
        thin = factorised(student, config)
        ranks = ranks_in(thin)
        after = parameters_at(student, ranks)
        session.log(f"lowrank: {before:,} → {after:,} parameters, ranks {ranks}")
        if plan := later_plans(config).get("lowrank"):
            learn(session, material, "lowrank", thin, teachers, plan, 0.0)
        session.note("lowrank", parameters=after, ranks=ranks)
    return thin


def train_quantized(session: Session, material: Material, student: nn.Module, teachers: Sequence[nn.Module]) -> nn.Module:
    """Distil the student a last time with its norms folded and its weights on the grids that they are packed on, from where packing would
    round it to."""
    config, thinner = session.config, session.record["stages"].get("lowrank", {})
    parameters = thinner.get("parameters", count_parameters(student))
    with session.stage("qat"):
        stepped = with_steps(session.world.lead(lambda: rounded(session, material, student)), config.pack)
        learn(session, material, "qat", stepped, teachers, later_plans(config)["qat"], 0.0)
        session.note("qat", parameters=parameters)  # folding and steps neither take from the count nor add to it
    return stepped


def shorter(train: Train, epochs: int, lr: float, anew: bool = False) -> Train:
    """The plan of a later training: the run's own with fewer epochs and another rate; without the warm-up, which new weights need, and
    trained ones don't. anew: it begins with new weights."""
    changes = {"epochs": epochs, "lr": lr, "warmup_epochs": train.warmup_epochs if anew else 0, "patience": None}
    return Train.model_validate(train.model_dump() | changes)


def later_plans(config: Config) -> dict[str, Train]:
    """{stage: its plan} of those that train after distillation, in order."""
    prune, lowrank, quantize = config.prune, config.lowrank, config.quantize
    plans: dict[str, Train] = {}
    if prune and prune.finetune_epochs:
        plan = shorter(config.train, prune.finetune_epochs, config.finetune_lr, prune.scratch)
        plans |= {step.finetune: plan for step in steps_of(prune)}
    if lowrank and lowrank.train_epochs:
        plans["lowrank"] = shorter(config.train, lowrank.train_epochs, config.lowrank_lr)
    if quantize.train_epochs:
        plans["qat"] = shorter(config.train, quantize.train_epochs, quantize.train_lr)
    return plans


@contextmanager
def stem_shared(student: nn.Module, teachers: Sequence[nn.Module], panel: Panel, device: Device) -> Iterator[None]:
    """A frozen stem that is the teacher's still is the teacher's own meanwhile, in the half precision in which both look at a view:
    compiled, a step then computes it once."""
    stems = [m for m in student.modules() if isinstance(m, FrozenStem) and teachers and m.is_of(teachers[0])]
    for stem in stems:
        stem.same = (own,) if isinstance(own := getattr(panel.first, "conv1", None), Stem) and device.autocast == device.teacher else ()
    try:
        yield
    finally:
        for stem in stems:
            stem.same = ()


def learn(
    session: Session, material: Material, stage: str, student: nn.Module, teachers: Sequence[nn.Module], plan: Train, gamma_penalty: float
) -> None:
    """Distil `student` in place, leaving it with the weights of its best epoch; skipped where the result is there."""
    checkpoints, widths = session.checkpoints(stage), widths_of(student)
    if done := checkpoints.result():
        session.write_metrics(stage, done["history"])
    else:
        student.to(session.device.device)
        config, panel = session.config, panel_of(teachers, session.config, session.device)
        session.world.lead(lambda: rehearse(session, material, stage, student, panel))
        plan, fuse = settle(session, material, stage, plan)
        torch.manual_seed(derive(plan.seed, f"{stage} adapters"))
        with stored_answers(session, material, stage, plan, panel) as stored, stem_shared(student, teachers, panel, session.device):
            terms, views, side = config.distill, config.data.augment, config.data.image_size
            objective = Objective(student, panel, terms, side, gamma_penalty, stored, fuse)
            adapters, prepare = objective.adapters, objective.prepare
            with hooked(objective.handles):
                state = train(session, material, stage, student, objective, plan, views, adapters=adapters, prepare=prepare, stored=stored)
        done = {"widths": widths} | state.state()
        checkpoints.finish(state.step, done)
    best = done["best"]
    student.load_state_dict(best["weights"])
    student.eval()  # in whatever mode the last epoch, or the end before it, left it
    session.note(stage, accuracy=best["accuracy"], epoch=best["epoch"], parameters=count_parameters(student), widths=widths)
