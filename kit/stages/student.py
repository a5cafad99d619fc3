"""The student's stages: distil, prune, and distil the pruned one again."""

import torch
from torch import nn

from kit import predict
from kit.compress.prune import slim
from kit.config.competitions import competition
from kit.config.schema import Train
from kit.distill.objective import Objective
from kit.models.students import FrozenStem, build_student, count_parameters, widths_of
from kit.rng import derive
from kit.session import Session
from kit.stages.finish import rehearse
from kit.stages.photos import Material
from kit.stages.teacher import on_device
from kit.stages.training import train


def distil(session: Session, material: Material, teacher: nn.Module) -> nn.Module:
    """The recipe's student under the recipe's objective."""
    config = session.config
    with session.stage("distil"):
        torch.manual_seed(derive(config.train.seed, "student"))
        student = build_student(config.student.name, config.student.widths, len(material.dataset.classes))
        for stem in [module for module in student.modules() if isinstance(module, FrozenStem)]:
            stem.copy_from(teacher)
        penalty = config.prune.gamma_penalty if config.prune else 0.0
        learn(session, material, "distil", student, teacher, config.train, penalty)
    return student


def prune(session: Session, material: Material, student: nn.Module) -> nn.Module:
    """The same student with fewer channels: a share of its parameters, and never more than the limit."""
    config, checkpoints = session.config, session.checkpoints("prune")
    with session.stage("prune"):
        name, classes = config.student.name, len(material.dataset.classes)
        if done := checkpoints.result():
            slimmer = build_student(name, done["widths"], classes)
            slimmer.load_state_dict(done["best"]["weights"])
            return slimmer
        session.budget.insist("pruning", "hand in")
        before = count_parameters(student)
        limit = min(int(before * config.prune.keep), competition(config.limit or config.competition).max_parameters or before)
        slimmer, widths = slim(student, name, classes, config.data.image_size, limit)
        accuracy = predict.accuracy(slimmer.to(session.device.device).eval(), material.validation, config.data)
        session.log(
            f"prune: {before:,} → {count_parameters(slimmer):,} parameters, widths {list(widths)}, validation accuracy {accuracy:.4f}"
        )
        checkpoints.finish({"widths": widths, "best": {"accuracy": accuracy, "epoch": 0, "weights": slimmer.cpu().state_dict()}})
        session.note("prune", accuracy=accuracy, parameters=count_parameters(slimmer), widths=widths)
    return slimmer


def finetune(session: Session, material: Material, student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Distil the pruned student again. Its optimiser is new and holds *its* weights: the course's held the network from before."""
    config = session.config
    shorter = {"epochs": config.prune.finetune_epochs, "lr": config.prune.finetune_lr, "warmup_epochs": 0, "patience": None}
    with session.stage("finetune"):
        learn(session, material, "finetune", student, teacher, Train.model_validate(config.train.model_dump() | shorter), 0.0)
    return student


def learn(
    session: Session, material: Material, stage: str, student: nn.Module, teacher: nn.Module, plan: Train, gamma_penalty: float
) -> None:
    """Distil `student` in place, leaving it with the weights of its best epoch; skipped where the result is there."""
    checkpoints, widths = session.checkpoints(stage), widths_of(student)
    if done := checkpoints.result():
        session.write_metrics(stage, done["history"])
    else:
        student.to(session.device.device)
        torch.manual_seed(derive(plan.seed, f"{stage} adapters"))
        objective = Objective(student, on_device(teacher, session), session.config.distill, session.config.data.image_size, gamma_penalty)
        rehearse(session, material, student)
        best = train(session, material, stage, student, objective, plan, session.config.data.augment, objective.adapters)
        done = {"widths": widths, "best": best, "history": session.histories[stage]}
        checkpoints.finish(done)
    student.load_state_dict(done["best"]["weights"])
    session.note(stage, accuracy=done["best"]["accuracy"], epoch=done["best"]["epoch"], parameters=count_parameters(student))
