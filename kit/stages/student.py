"""The student's training stages: distil, and distil the pruned one again."""

import torch
from torch import nn

from kit.config.schema import Prune, Train
from kit.distill.objective import Objective
from kit.models.students import FrozenStem, build_student, count_parameters, widths_of
from kit.models.widths import widths_for
from kit.rng import derive
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.rehearsal import rehearse
from kit.stages.teacher import on_device
from kit.stages.training import train


def distil(session: Session, material: Material, teacher: nn.Module) -> nn.Module:
    """The recipe's student under the recipe's objective."""
    config = session.config
    with session.stage("distil"):
        torch.manual_seed(derive(config.train.seed, "student"))
        classes = len(material.dataset.classes)
        student = build_student(config.student.name, widths_for(config.student, classes), classes)
        for stem in [module for module in student.modules() if isinstance(module, FrozenStem)]:
            stem.copy_from(teacher)
        penalty = config.prune.gamma_penalty if config.prune else 0.0
        learn(session, material, "distil", student, teacher, config.train, penalty)
    return student


def finetune(session: Session, material: Material, student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Distil the pruned student again. Its optimiser is new and holds *its* weights: the course's held the network from before."""
    config = session.config
    with session.stage("finetune"):
        learn(session, material, "finetune", student, teacher, finetuning(config.train, config.prune), 0.0)
    return student


def finetuning(train: Train, prune: Prune) -> Train:
    """The plan of fine-tuning: the run's own with fewer epochs, a smaller rate and no warm-up."""
    shorter = {"epochs": prune.finetune_epochs, "lr": prune.finetune_lr, "warmup_epochs": 0, "patience": None}
    return Train.model_validate(train.model_dump() | shorter)


def learn(
    session: Session, material: Material, stage: str, student: nn.Module, teacher: nn.Module, plan: Train, gamma_penalty: float
) -> None:
    """Distil `student` in place, leaving it with the weights of its best epoch; skipped where the result is there."""
    checkpoints, widths = session.checkpoints(stage), widths_of(student)
    if done := checkpoints.result():
        session.write_metrics(stage, done["history"])
    else:
        student.to(session.device.device)
        looking = on_device(teacher, session)
        session.world.lead(lambda: rehearse(session, material, stage, student, looking))
        torch.manual_seed(derive(plan.seed, f"{stage} adapters"))
        objective = Objective(student, looking, session.config.distill, session.config.data.image_size, gamma_penalty)
        state = train(session, material, stage, student, objective, plan, session.config.data.augment, objective.adapters)
        done = {"widths": widths} | state.state()
        checkpoints.finish(state.step, done)
    student.load_state_dict(done["best"]["weights"])
    session.note(stage, accuracy=done["best"]["accuracy"], epoch=done["best"]["epoch"], parameters=count_parameters(student))
