"""A student that is there already: in a run's folder, in one of its checkpoints, packed, or in another program's file."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kit.compress.adjust import adjust_logits
from kit.compress.fold import unfold
from kit.compress.foreign import Foreign, from_torch, read_foreign
from kit.compress.pack import is_packed, unpack
from kit.config.override import in_words, override
from kit.config.schema import Config, Data, Student, Train
from kit.config.stages import OTHER_LAYERS
from kit.config.terms import CE
from kit.console import Log
from kit.errors import KitError
from kit.files import read_object
from kit.models.library import refuse_unusable
from kit.models.recognise import as_network, recognise
from kit.models.students import build_student, widths_of
from kit.names import RECORD, STUDENT, TEACHER
from kit.train.checkpoint import Damaged, Saved, Unread, described, read, run_of, saved_in, weights_in, whole

NO_ACCOUNT = (OSError, ValueError, TypeError, KeyError)  # of a run: there is none, it is damaged, or it does not say


@dataclass(frozen=True)
class Found:
    """weights: in the shape that is trained. origin: where they are from, in words. config, classes: of the run, None where the file does
    not say; a teacher is the student of its config. per_class: training photos of each class, None where that is not known. adjusted:
    whether the logits are by `predict.logit_adjustment`, as a packed student's are and a checkpoint's are not."""

    weights: dict[str, Tensor]
    origin: str
    config: Config | None = None
    classes: tuple[str, ...] | None = None
    per_class: np.ndarray | None = None
    adjusted: bool = False


def find_weights(source: Path) -> Found:
    """The student of a run's folder or of a file. A run gives its best trained weights, before they were packed.

    Raises:
        KitError: there is none.
    """
    if source.is_dir():
        return trained_weights(source) or weights_of_file(source / STUDENT)
    return weights_of_file(source)


def trained_weights(out: Path) -> Found | None:
    """The best weights of the latest stage that trained the student, None where no checkpoint is left."""
    students = [saved for saved in saved_in(out) if saved.stage not in ("teacher", *OTHER_LAYERS)]
    for saved, content in whole(reversed(students), Log()):
        if content["state"]["best"]["weights"]:
            config, weights = config_in(saved, content), content["state"]["best"]["weights"]
            return Found(weights, saved.path.name, config, classes_in(out), per_class_in(out))
    return None


def config_in(saved: Saved, content: dict[str, Any]) -> Config:
    """What a checkpoint's run was begun with.

    Raises:
        KitError: it is no config of this version.
    """
    try:
        return Config.model_validate(content["config"])
    except ValidationError as error:
        raise KitError(
            f"{saved.path} was written by another version of the kit ({in_words(error)}). With that one `kit export` makes a plain file of "
            "its weights, which every version reads."
        ) from None


def classes_in(out: Path) -> tuple[str, ...] | None:
    """What a run knows, by its own account or, before version 1.11, its packed student: checkpoints don't say."""
    with suppress(*NO_ACCOUNT):
        return tuple(account_of(out)["classes"])
    return unpack(packed).classes if is_packed(packed := out / STUDENT) else None


def per_class_in(out: Path) -> np.ndarray | None:
    """How many photos of each class a run's logits were adjusted by, by its own account."""
    with suppress(*NO_ACCOUNT):
        return np.array(account_of(out)["stages"]["quantize"]["per_class"])
    return None


def config_beside(file: Path) -> Config | None:
    """The config of the run whose folder a teacher.ckpt lies in, for that is weights alone; None for all other files."""
    if file.name != TEACHER:
        return None
    with suppress(*NO_ACCOUNT):
        return Config.model_validate(account_of(file.parent)["config"])
    return None


def account_of(out: Path) -> dict[str, Any]:
    """A run's run.json, as another run or command reads it; where that fails, or it does not say what is asked, it is one of NO_ACCOUNT."""
    return read_object((out / RECORD).read_bytes())


def weights_of_file(file: Path) -> Found:
    if file.name == STUDENT and not file.is_file():
        raise KitError(f"{file.parent} holds neither a checkpoint of a student nor a student.kit. Give the folder of a run, or a file.")
    if is_packed(file):
        return unpacked(file)
    config: Config | None
    if saved := described(file):
        refuse_other_layers(saved)
        content = read_checkpoint(saved)
        weights, config = weights_in(content["state"]), config_in(saved, content)
    else:
        weights, config = read_foreign(file).weights, config_beside(file)
    if config and (not saved or saved.stage == "teacher"):
        shown = config.data.model_copy(update={"image_size": config.teacher_side})
        config = by_itself(config.teacher.arch.replace("torchvision/", "timm/"), shown, config.train)
    beside = (classes_in(run_of(file)), per_class_in(run_of(file))) if config else ()
    return Found(weights, str(file), config, *beside)


def unpacked(file: Path) -> Found:
    """Unfolded: programs that know a packed student's architecture know it with batch norm."""
    packed = unpack(file)
    if packed.ranks:
        raise KitError(f"The layers of {file} are factorised: no other program knows them so. Give the run or file that it was made of.")
    with torch.random.fork_rng(devices=[]):
        student = build_student(packed.config.student.name, widths_of(packed.student), len(packed.classes))
    per_class = per_class_in(file.parent) if file.name == STUDENT else None
    adjusted = bool(packed.config.predict.logit_adjustment)
    return Found(unfold(packed.student, student).state_dict(), str(file), packed.config, packed.classes, per_class, adjusted)


def understand(found: Found, name: str | None, assignments: list[str]) -> tuple[nn.Module, Config]:
    """(the student as it answers, its config): a stranger's has the defaults of a config, 224 px among them.

    Raises:
        KitError: no network is known by these weights; or its logits are to be adjusted, and nothing tells by what.
    """
    name = name or (found.config.student.name if found.config else None)
    if name:
        model = as_network(found.weights, name)
    else:
        name, model = next(recognise(found.weights), ("", None))
    if model is None:
        named = f"is no {name!r}" if name else "is no network that is known by its tensors"
        raise KitError(f"{found.origin} {named}. Name it with --student, such as hw7, resnet8x4 or timm/mobilenetv3_small_050.")
    if name.startswith("torchvision/"):  # ResNet-18's tensors have the same names in both
        name = name.replace("torchvision/", "timm/")
        model = as_network(found.weights, name)
    config = override(found.config or by_itself(name, Data(), Train(epochs=1)), assignments)
    tau, done = config.predict.logit_adjustment, found.config.predict.logit_adjustment if found.config and found.adjusted else 0.0
    if done and tau != done:
        raise KitError(
            f"The logits of {found.origin} are adjusted by {done:g} already, and not by {tau:g} instead (predict.logit_adjustment). Give "
            "its run's folder, whose weights are as they were trained."
        )
    if tau and not done:
        refuse_balanced(config)
        if found.per_class is None:
            packed = found.config and found.config.predict.logit_adjustment
            raise KitError(
                f"predict.logit_adjustment goes by the training photos of each class, and beside {found.origin} no run.json tells how many "
                f"there were. Give {'its student.kit, which is adjusted' if packed else 'the folder of its run'}, or leave it out: "
                "--set predict.logit_adjustment=0."
            )
        model = adjust_logits(model, found.per_class, tau)
    refuse_unusable(name, model, config.data.image_size)
    return model, config.model_copy(update={"student": Student(name=name, widths=widths_of(model))})


def by_itself(name: str, data: Data, train: Train) -> Config:
    """The config of a network that is no run's student: what it was shown, and what it has learnt from."""
    labelled = data.model_copy(update={"unlabelled": False})  # which CE alone has no use for
    return Config(recipe="compress", competition="any", data=labelled, student=Student(name=name), distill=(CE(),), train=train)


def refuse_balanced(config: Config) -> None:
    """One of train.balanced and predict.logit_adjustment may be set: each makes up for uneven classes.

    Raises:
        KitError: both are.
    """
    if config.train.balanced and config.predict.logit_adjustment:
        raise KitError(
            "predict.logit_adjustment makes up for classes that training has fewer photos of, and with train.balanced=true it drew all of "
            "them as often: rare ones would be favoured twice. Leave one of the two out."
        )


def read_weights_file(file: Path) -> Foreign:
    """The state dict in a checkpoint of the kit, known by its name, or in another program's file."""
    if not (saved := described(file)):
        return read_foreign(file)
    state = read_checkpoint(saved)["state"]
    which = "best weights" if "weights" in state or state["best"]["weights"] else "newest weights"
    done = "its result" if saved.done else "unfinished"
    return from_torch(f"checkpoint of {saved.stage} at step {saved.step:,} ({done}, {which})", weights_in(state))


def refuse_other_layers(saved: Saved) -> None:
    if saved.stage in OTHER_LAYERS:
        raise KitError(f"{saved.path} has layers that only packing knows. Give its run's folder or student.kit, or an earlier checkpoint.")


def read_checkpoint(saved: Saved) -> dict[str, Any]:
    """A checkpoint's content, as a user who named the file is served.

    Raises:
        KitError: it is damaged, or can't be read.
    """
    try:
        return read(saved)
    except Unread as failure:
        raise KitError(f"{saved.path} can't be read ({failure}). Bring its disk or mount back, or mend its permissions.") from None
    except Damaged as damage:
        raise KitError(f"{saved.path} is damaged ({damage}). Give another checkpoint of the run.") from None
