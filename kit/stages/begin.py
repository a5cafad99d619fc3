"""Another run's student in place of training one: whether this run can begin with it, and its weights."""

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kit import predict
from kit.config.schema import Config, Student
from kit.data.splits import Dataset
from kit.errors import KitError
from kit.models.library import shapes_on
from kit.models.look import classifier
from kit.models.recognise import as_network
from kit.models.students import count_parameters, widths_of
from kit.models.widths import new_student
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.teacher_file import refuse_adjusted, refuse_leak, refuse_other_classes, refuse_other_input
from kit.stages.weights import find_weights
from kit.train.checkpoint import distilled_in, to_bytes


def check_beginning(source: Path, config: Config) -> None:
    """Whether another run's student can be begun with.

    Raises:
        KitError: there is none, it is another network or of other widths, was trained at another input size or normalisation, or its
            logits are adjusted, which this run would do a second time, or not know of.
    """
    found = find_weights(source)
    if found.adjusted:
        refuse_adjusted(source)
    if found.config:
        refuse_other_input(f"The student in {source}", found.config, config)
        theirs, ours = found.config.student.name, config.student.name
        if theirs != ours and as_network(found.weights, ours) is None:
            raise KitError(f"{source} holds the student {theirs!r}, the recipe has {ours!r}. Take theirs: --set student.name={theirs}.")
    as_recipes(source, found.weights, config.student)


def check_learnt(source: Path, config: Config, dataset: Dataset) -> None:
    """Whether it can be begun with on these photos: asked before a teacher is trained on them.

    Raises:
        KitError: it knows other classes than the data has, or has learnt from photos that are to validate.
    """
    found = find_weights(source)
    if found.classes:
        refuse_other_classes(source, found.classes, dataset.classes)
    outputs = classifier(as_recipes(source, found.weights, config.student)).out_features
    if outputs != len(dataset.classes):
        raise KitError(
            f"The student in {source} has {outputs} outputs, the data has {len(dataset.classes)} classes. Give one of these classes."
        )
    if found.config:
        refuse_leak(source, found.config, config, dataset.held_out)


def as_recipes(source: Path, weights: Mapping[str, Tensor], student: Student) -> nn.Module:
    """The recipe's student with these weights.

    Raises:
        KitError: they are of another network or other widths, with the widths that fit.
    """
    network, name = as_network(weights, student.name), student.name
    if network is None:
        raise KitError(
            f"{source} is no {name!r}. Give a run's folder or its student.kit, and with --set student.name=… the student that it holds."
        )
    outputs = classifier(network).out_features
    with torch.device(shapes_on(name)):
        ours = list(widths_of(new_student(student, outputs)))
    if (theirs := list(widths_of(network))) != ours:
        solved = " --set student.parameters=null" if student.parameters else ""
        whole = distilled_in(source)
        fits = whole and (it := as_network(find_weights(whole).weights, name)) and list(widths_of(it)) == ours
        before = f" Or begin with it as it was before it was pruned: --begin {shlex.quote(str(whole))}" if fits else ""
        raise KitError(f"{source} is a {name!r} of widths {theirs}, this run has {ours}: --set 'student.widths={theirs}'{solved}.{before}")
    return network


def take_weights(session: Session, material: Material, student: nn.Module, source: Path) -> None:
    """Another run's weights in place of training, into `student`.

    Raises:
        KitError: they are not those that this run was begun with.
    """
    found, config, checkpoints = find_weights(source), session.config, session.checkpoints("distil")
    if "student" not in session.begun_with and checkpoints.files():
        raise KitError(f"{session.out} holds a student that the run trains itself: leave out --begin, or choose another --out.")
    student.load_state_dict(as_recipes(source, found.weights, config.student).state_dict())
    session.remember("student", hashlib.sha256(to_bytes(found.weights)).hexdigest()[:16], f"the weights in {source}")
    checkpoints = session.checkpoints("distil")  # which know of the student now
    if not (done := checkpoints.result()):
        look = lambda: predict.scores(student.to(session.device.device).eval(), material.validation, config.data)  # noqa: E731
        accuracy = None if config.train.final_fit else session.world.lead(look)["accuracy"]
        best = {"accuracy": accuracy, "epoch": 0, "weights": student.state_dict()}
        done = {"widths": widths_of(student), "history": [], "best": best}
        checkpoints.finish(0, done)
    session.log(f"distil: the weights of {found.origin} in {source} instead of training")
    session.note("distil", accuracy=done["best"]["accuracy"], epoch=0, parameters=count_parameters(student), widths=done["widths"])
