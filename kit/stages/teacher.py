"""The teacher's stage: files that are given or found, or one that the run trains; evaluated, frozen and checked before the first step."""

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit import predict
from kit.answers import has_answer, keep_answer
from kit.compress.fold import fold_in_place
from kit.config.schema import Config
from kit.device import Device
from kit.distill import losses
from kit.distill.objective import tapped
from kit.distill.panel import Panel, mean_of_probabilities
from kit.errors import KitError
from kit.files import sha256_of, write_durably
from kit.models.cost import count_macs
from kit.models.library import is_library
from kit.models.quick import STAGE, quick
from kit.models.students import FrozenStem, build_student, count_parameters
from kit.models.teacher import build_teacher, start_from_pretrained
from kit.names import ANSWERS, TEACHER
from kit.rng import derive
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.teacher_file import file_of, has_seen, read_teacher
from kit.stages.training import settle, train
from kit.train.checkpoint import Checkpoints, to_bytes


def get_teachers(session: Session, material: Material, folders: Sequence[Path], given: Sequence[Path]) -> list[nn.Module]:
    """The teachers, evaluated, frozen and checked: those that are given, the competition's beside the photos, or one trained here; none
    where there is none and nothing in the recipe looks at one."""
    config, classes = session.config, material.dataset.classes
    with session.stage("teacher"):
        files = [file_of(source) for source in given]
        if not files and (found := find_teacher(session.rules.teacher_file, material.dataset.root, folders)):
            files = [found]
        if not (files or wants_teacher(config)):
            if (before := session.begun_with.get("teacher", "none")) != "none":
                raise KitError(
                    f"The run in {session.out} was begun with a teacher ({before}), and none is there now: bring it back, or choose "
                    "another --out."
                )
            session.remember("teacher", "none", "no teacher")
            session.log("no teacher file, and no term of distill looks at one: none is trained")
            return []
        of_others, files = bool(files), files or [train_teacher(session, material)]
        teachers = [read_teacher(file, config, classes, material.dataset.held_out) for file in files]
        digest, entry = digest_of(files), session.record["stages"]["teacher"]
        session.remember("teacher", digest, f"the weights in {', '.join(map(str, files))}")
        looked = lambda: has_answer(session.out / ANSWERS, material.validation, "teacher", digest)  # noqa: E731
        if entry.get("evaluated") != digest or not session.world.lead(looked):
            session.note("teacher", **examine(session, material, files, teachers, digest), evaluated=digest)
        seen = [config.train.final_fit and has_seen(file, config, material.dataset.held_out) for file in files]
        session.note("teacher", seen=any(seen))
        for file, accuracy, learnt in zip(files, entry["accuracies"], seen, strict=True):
            session.log(f"teacher {file}: {say(accuracy, learnt)}")
            refuse_weak(file, accuracy, config.teacher.expected_accuracy)
        if len(files) > 1:
            session.log(f"{len(files)} teachers together: {say(entry['accuracy'], any(seen))}")
        if of_others:  # now that it is not refused
            forget_own(session, digest)
    return teachers


def wants_teacher(config: Config) -> bool:
    """Whether a term looks at one, or the student's stem is one's."""
    name = config.student.name
    if is_library(name) or config.taught:
        return config.taught
    with torch.device("meta"):
        return any(isinstance(module, FrozenStem) for module in build_student(name, (), 2).modules())


def examine(session: Session, material: Material, files: Sequence[Path], teachers: Sequence[nn.Module], digest: str) -> dict[str, Any]:
    """Names, sizes and accuracies on validation, of each and of all together, whose answers are kept.

    Raises:
        KitError: a teacher's classes are in another order, or it knows nothing.
    """
    labels, answers = material.validation.labels, [answer_of(session, material, teacher) for teacher in teachers]
    for file, answer in zip(files, answers, strict=True):
        if file.parent != session.out:  # a bad one of this run's own has had too little training and no other fault
            refuse_order(file, answer.argmax(1).numpy(), labels, material.dataset.classes)
    together = answers[0] if len(answers) == 1 else mean_of_probabilities(answers)
    classes, photos = material.dataset.classes, material.validation
    session.attempt(ANSWERS, lambda file: keep_answer(file, photos, classes, "teacher", digest, together.numpy()))
    accuracies = [accuracy_of(answer, labels) for answer in answers]
    return {
        "file": " and ".join(file.name for file in files),
        "accuracy": accuracy_of(together, labels),
        "accuracies": accuracies,
        "parameters": sum(map(count_parameters, teachers)),
        "macs": sum(count_macs(teacher, session.config.teacher_side).total() for teacher in teachers),
    }


def digest_of(files: Sequence[Path]) -> str:
    """Sixteen hex digits of a file's sha256; of several files the sha256 of theirs in order."""
    digests = [sha256_of(file) for file in files]
    return (digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest())[:16]


def answer_of(session: Session, material: Material, teacher: nn.Module) -> Tensor:
    """Logits of the validation photos."""
    panel = panel_of([teacher], session.config, session.device)
    tick = partial(session.budget.insist, "the teacher was evaluated", *session.owed())
    with session.budget.timed("teacher"):
        return session.world.lead(lambda: predict.logits(panel, material.validation, session.config.data, tick=tick))


def accuracy_of(answer: Tensor, labels: np.ndarray) -> float:
    return float((answer.argmax(1).numpy() == labels).mean())


def say(accuracy: float, seen: bool) -> str:
    if seen:
        return f"{accuracy:.4f} of the validation photos, which were learnt from ({predict.SEEN})"
    return f"validation accuracy {accuracy:.4f}"


def find_teacher(name: str, root: Path, folders: Sequence[Path]) -> Path | None:
    """The competition's file of that name beside the photos in `root`, or anywhere below the folders: on Kaggle it may be attached alone.

    Raises:
        KitError: there are several that differ, none of them beside the photos.
    """
    for place in (root, root.parent, *folders):
        if (place / name).is_file():
            return place / name
    found = {sha256_of(file): file for folder in reversed(folders) for file in sorted(folder.rglob(name), reverse=True)}
    if len(found) > 1:
        several = ", ".join(map(str, found.values()))
        raise KitError(f"There are several teachers {name}: {several}. Name one with --teacher, or detach the others.")
    return next(iter(found.values()), None)


def refuse_weak(file: Path, accuracy: float, expected: float | None) -> None:
    if expected is not None and accuracy < expected - 0.01:
        raise KitError(
            f"The teacher {file} reaches {accuracy:.4f} on validation, {expected:.4f} was expected (teacher.expected_accuracy). "
            "Is it the right file, and trained at this side (teacher.image_size, else data.image_size)? To use it all the same: "
            "--set teacher.expected_accuracy=null."
        )


def refuse_order(file: Path, answer: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """A teacher whose classes are in another order is wrong about most photos, and right about them under other names.

    Two classes at least must trade places, each taken for the other's most often, and more than twice as many of their photos must be
    right under the other names: mere weakness, which leaves outputs unused, does not look like that.

    Where classes are many, clearly right is twice as often as chance, and hardly better than chance is less than half as often again. Few
    classes leave less room above chance, and both margins shrink with it: of two classes it is three in four, and five in eight.
    """
    from scipy.optimize import linear_sum_assignment  # here: it takes its time to import, and a teacher is looked at once a run

    table = predict.confusion(answer, labels, len(classes))
    accuracy, truth_output = np.trace(table) / len(labels), zip(*linear_sum_assignment(-table), strict=True)
    pairs = [(int(t), int(o)) for t, o in truth_output]  # the order of outputs that would be right most often
    elsewhere = [(t, o) for t, o in pairs if t != o]
    moved = [(t, o) for t, o in elsewhere if table[t].any() and o == table[t].argmax()]  # nothing is known of a class without photos
    clear = sum(table[pair] for pair in elsewhere) > 2 * sum(table[t, t] for t, _ in elsewhere)
    best, chance = sum(table[pair] for pair in pairs) / len(labels), 1 / len(classes)
    margin = chance * (1 - chance)
    if len(moved) >= 2 and clear and best > chance + margin:
        shown = "; ".join(f"output {o} looks like {classes[t]!r} ({t})" for t, o in moved[:4]) + ("; …" if len(moved) > 4 else "")
        raise KitError(
            f"The classes of the teacher {file} are in another order: it reaches {accuracy:.4f} on validation, and would reach {best:.4f} "
            f"otherwise: {shown}. Give a teacher that was trained on these classes in this order."
        )
    if accuracy < chance + margin / 2:
        raise KitError(f"The teacher {file} reaches {accuracy:.4f} on validation, hardly better than chance. Is it the right file?")


def train_teacher(session: Session, material: Material) -> Path:
    """A ResNet-18 from pretrained weights where they are on disk, else from scratch; its result is teacher.ckpt.

    The weights lie in the stage's result too, so that either file makes the other again.

    Raises:
        KitError: the run was begun with another's, which is not there now: it would take none that is trained here.
    """
    file, checkpoints = session.out / TEACHER, session.checkpoints("teacher")
    if done := checkpoints.result() or session.world.lead(lambda: result_from_file(session, file, checkpoints)):
        session.write_metrics("teacher", done["history"])
        session.world.lead(lambda: bring_back(file, done))
        return file
    if (before := session.begun_with.get("teacher")) and not (session.histories.get("teacher") or checkpoints.files()):
        raise KitError(
            f"The run in {session.out} was begun with a teacher ({before}) that it did not train, and none is there now: name it by "
            "--teacher, or bring it back beside the photos. For another one choose another --out."
        )
    config, side = session.config.teacher, session.config.data.image_size
    if session.config.teacher_side != side:
        raise KitError(
            f"teacher.image_size={config.image_size} is the side of a teacher that is there, and none is: this run would train its own at "
            f"data.image_size={side}. Name one with --teacher, or --set teacher.image_size=null."
        )
    torch.manual_seed(derive(config.train.seed, "teacher"))
    teacher = build_teacher(config.arch, len(material.dataset.classes)).to(memory_format=torch.channels_last)
    origin = start_from_pretrained(teacher)
    session.log(
        f"no teacher file: training {config.arch} " + (f"from {origin.name}" if origin else "from scratch (no pretrained weights on disk)")
    )

    plan = config.train.model_copy(update={"final_fit": True, "patience": None}) if session.config.train.final_fit else config.train
    plan, fuse = settle(session, material, "teacher", plan)
    look = fuse(teacher.forward) if fuse else teacher

    def loss(images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return losses.ce(look(images), labels), {}

    state = train(session, material, "teacher", teacher, loss, plan, config.augment)
    weights = state.best["weights"]
    session.world.lead(lambda: write_durably(file, to_bytes(weights)))
    checkpoints.finish(state.step, {"weights": weights, "sha256": sha256_of(file), "history": state.history})
    checkpoints.clear()  # an optimiser's state of 11 million parameters is large
    return file


def forget_own(session: Session, digest: str) -> None:
    """What the run has of a teacher that it had begun to train, now that it has another's, the one with that digest. One that it has
    finished stays."""
    file, checkpoints = session.out / TEACHER, session.checkpoints("teacher")
    if file.is_file() and sha256_of(file)[:16] == digest:
        return  # its own, by name
    half_done = [saved.step for saved in checkpoints.files() if not saved.done]
    session.histories.pop("teacher", None)
    if half_done:
        session.log(f"the run's own teacher, half trained at step {half_done[-1]:,}, is not needed any more: its checkpoints are removed")
        checkpoints.clear()


def bring_back(file: Path, done: dict[str, Any]) -> None:
    """teacher.ckpt from the stage's result, where it is not that."""
    if not file.is_file() or sha256_of(file) != done["sha256"]:
        write_durably(file, to_bytes(done["weights"]))


def result_from_file(session: Session, file: Path, checkpoints: Checkpoints) -> dict[str, Any] | None:
    """The stage's result made again from teacher.ckpt, where that is the file that later checkpoints were trained with."""
    if not file.is_file() or sha256_of(file)[:16] != session.begun_with.get("teacher"):
        return None
    history = session.histories.get("teacher", [])
    weights = torch.load(file, map_location="cpu", weights_only=True)
    done = {"weights": weights, "sha256": sha256_of(file), "history": history}
    checkpoints.finish(history[-1]["step"] if history else 0, done)
    session.log(f"{file} is the teacher that the run was begun with: its result is written again")
    return done


def panel_of(teachers: Sequence[nn.Module], config: Config, device: Device) -> Panel:
    """Frozen copies of the teachers, folded and in the device's half precision. Not folded where a term taps a convolution before its norm.

    The originals stay whole, for a stem may be taken from one.
    """
    wanted = tapped(config.distill, "teacher")
    bare = bool(teachers) and any(isinstance(module, nn.Conv2d) for name, module in teachers[0].named_modules() if name in wanted)
    networks = [ready(teacher, device, folds=not bare) for teacher in teachers]
    if all(STAGE.fullmatch(name) for name in wanted):
        networks = [quick(network, config.teacher_side) for network in networks]
    return Panel(networks, config.teacher.flip, config.teacher.image_size)


def ready(teacher: nn.Module, device: Device, folds: bool = True) -> nn.Module:
    """A copy of a teacher as a panel asks it: on the device, in its half precision, channels last, and folded where it may be.

    A student that teaches keeps float32 on a CPU: its depthwise convolutions are slower in half precision there.
    """
    light = device.device.type == "cpu" and any(m.groups > 1 for m in teacher.modules() if isinstance(m, nn.Conv2d))
    own = copy.deepcopy(teacher)
    folded = fold_in_place(own) if folds else own
    dtype = torch.float32 if light else device.teacher
    return folded.to(device=device.device, dtype=dtype, memory_format=torch.channels_last)
