"""The teacher's stage: a file that is given or found, or one that the run trains; evaluated, frozen and checked before the first step."""

import copy
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from kit import predict
from kit.distill import losses
from kit.errors import KitError
from kit.files import sha256_of, write_durably
from kit.models.teacher import build_teacher, fold_batch_norm, load_teacher, start_from_pretrained
from kit.rng import derive
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.training import train


def get_teacher(session: Session, material: Material, data: Path, given: Path | None) -> nn.Module:
    """The teacher, evaluated, frozen and checked: the file that is given, the competition's beside the photos, or one trained here."""
    config, classes = session.config.teacher, len(material.dataset.classes)
    with session.stage("teacher"):
        file = given or find_teacher(session, material, data) or train_teacher(session, material)
        teacher = load_teacher(file, config.arch, classes)
        digest, entry = sha256_of(file)[:16], session.record["stages"]["teacher"]
        session.remember("teacher", digest, f"the weights in {file}")
        if "accuracy" not in entry:
            look, tick = on_device(teacher, session), lambda: session.budget.insist("the teacher was evaluated")
            session.note("teacher", file=file.name, accuracy=predict.accuracy(look, material.validation, session.config.data, tick=tick))
        session.log(f"teacher {file}: validation accuracy {entry['accuracy']:.4f}")
        check_teacher(file, entry["accuracy"], config.expected_accuracy, classes, own=file.parent == session.out)
    return teacher


def find_teacher(session: Session, material: Material, data: Path) -> Path | None:
    places = (material.dataset.root, material.dataset.root.parent, data)
    return next((place / session.rules.teacher_file for place in places if (place / session.rules.teacher_file).is_file()), None)


def check_teacher(file: Path, accuracy: float, expected: float | None, classes: int, own: bool) -> None:
    """own: trained by this run, so that a bad one has had too little training and no other fault."""
    if expected is not None and accuracy < expected - 0.01:
        raise KitError(
            f"The teacher {file} reaches {accuracy:.4f} on validation, {expected:.4f} was expected (teacher.expected_accuracy). "
            "Is it the right file, and does data.image_size fit it?"
        )
    if accuracy < 1.5 / classes and not own:
        raise KitError(
            f"The teacher {file} reaches {accuracy:.4f} on validation, hardly better than chance. Are its classes in another order?"
        )


def train_teacher(session: Session, material: Material) -> Path:
    """A ResNet-18 from pretrained weights where they are on disk, else from scratch; its result is teacher.ckpt."""
    file, checkpoints = session.out / "teacher.ckpt", session.checkpoints("teacher")
    done = checkpoints.result()
    if done and file.is_file() and sha256_of(file) == done["sha256"]:
        session.write_metrics("teacher", done["history"])
        return file
    config = session.config.teacher
    torch.manual_seed(derive(config.train.seed, "teacher"))
    teacher = build_teacher(config.arch, len(material.dataset.classes)).to(memory_format=torch.channels_last)
    origin = start_from_pretrained(teacher)
    session.log(
        f"no teacher file: training {config.arch} " + (f"from {origin.name}" if origin else "from scratch (no pretrained weights on disk)")
    )

    def loss(images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return losses.ce(teacher(images), labels), {}

    best = train(session, material, "teacher", teacher, loss, config.train, config.augment)
    buffer = io.BytesIO()
    torch.save(best["weights"], buffer)
    write_durably(file, buffer.getvalue())
    checkpoints.clear()  # an optimiser's state of 11 million parameters is large, and the file above is the result
    checkpoints.finish({"sha256": sha256_of(file), "history": session.histories["teacher"]})
    return file


def on_device(teacher: nn.Module, session: Session) -> nn.Module:
    """A copy to look through, folded and in the device's half precision; the original stays whole, for a stem may be taken from it."""
    return fold_batch_norm(copy.deepcopy(teacher)).to(
        device=session.device.device, dtype=session.device.teacher, memory_format=torch.channels_last
    )
