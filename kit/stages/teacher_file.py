"""Any network as a teacher: a file of ResNet weights, or what the kit itself has trained.

A student that was trained before may teach a smaller one (the teacher's assistant of Mirzadeh et al. 2020), and checkpoints of one run may
teach together: a student.kit, a run's folder, and a file below its `checkpoints/` are read as well as other programs' weights.
"""

from pathlib import Path
from typing import NoReturn

from torch import nn

from kit.compress.pack import is_packed, unpack
from kit.config.schema import Config
from kit.errors import KitError
from kit.models.recognise import as_network, outputs_of
from kit.models.teacher import build_teacher, load_teacher
from kit.names import STUDENT
from kit.stages.weights import classes_in, config_beside, config_in, read_checkpoint, refuse_other_layers
from kit.train.checkpoint import Saved, described, run_of, saved_in, weights_in


def file_of(source: Path) -> Path:
    """The file that a teacher is read from: of a run's folder the trained student, before it was packed, where that is there.

    Raises:
        KitError: the folder holds no student.
    """
    if not source.is_dir():
        return source
    done = [saved.path for saved in saved_in(source) if saved.done and saved.kind in ("distil", "finetune")]
    file = done[-1] if done else source / STUDENT
    if not file.is_file():
        raise KitError(
            f"{source} holds no student that could teach: no stage is done and there is no student.kit. Give another folder or file."
        )
    return file


def read_teacher(file: Path, config: Config, classes: tuple[str, ...] | None, held_out: bool = False) -> nn.Module:
    """A teacher, frozen and in evaluation mode.

    Args:
        classes: that it must know, None where they are not known yet.
        held_out: the data set has no validation split of its own.
    Raises:
        KitError: it can't be read, its logits are adjusted, or it was trained on other classes, another input size, another
            normalisation, or photos that are to validate.
    """
    trained: Config | None
    knows: tuple[str, ...] | None
    if is_packed(file):
        packed = unpack(file)
        network, trained, knows = packed.student, packed.config, packed.classes
        if trained.predict.logit_adjustment:
            refuse_adjusted(file)
    elif saved := described(file):
        network, trained = from_checkpoint(saved, classes)
        knows = classes_in(run_of(file))
    else:
        network, trained = load_teacher(file, config.teacher.arch, len(classes) if classes else None), config_beside(file)
        knows = classes_in(file.parent) if trained else None
    if knows:
        refuse_other_classes(file, knows, classes)
    if trained:
        refuse_other_input(f"The teacher {file}", trained, config, teaches=True)
        refuse_leak(file, trained, config, held_out)
    return network.eval().requires_grad_(False)


def refuse_other_classes(file: Path, theirs: tuple[str, ...], ours: tuple[str, ...] | None) -> None:
    """A network's classes must be the data's, in their order; where those are not known yet nothing is asked.

    Raises:
        KitError: they are not, with the first that differs.
    """
    if ours is not None and theirs != ours:
        found = next((f"{a!r} for {b!r}" for a, b in zip(theirs, ours, strict=False) if a != b), f"{len(theirs)} for {len(ours)}")
        raise KitError(f"{file} knows other classes than the data has ({found}). Give one that was trained on these classes.")


def refuse_other_input(what: str, theirs: Config, ours: Config, teaches: bool = False) -> None:
    """What a network's input must have in common with the one that it was trained on. teaches: its input has a size of its own."""
    size, side = ("teacher.image_size", ours.teacher_side) if teaches else ("data.image_size", ours.data.image_size)
    for name, setting, before, now in (
        ("data.image_size", size, theirs.data.image_size, side),
        ("data.mean", "data.mean", theirs.data.mean, ours.data.mean),
        ("data.std", "data.std", theirs.data.std, ours.data.std),
    ):
        if before != now:
            value = str(list(before)) if isinstance(before, tuple) else before
            raise KitError(f"{what} was trained with {name} {before}, this run has {now}: --set '{setting}={value}'.")


def refuse_adjusted(source: Path) -> NoReturn:
    """What is learnt from adjusted logits would be adjusted a second time, or unknown to the run that learns it."""
    raise KitError(
        f"The logits of {source} are adjusted for uneven classes already (predict.logit_adjustment). Give its run's folder, whose "
        "weights are as they were trained."
    )


def refuse_leak(source: Path, theirs: Config, ours: Config, held_out: bool) -> None:
    """What has learnt from photos that validate here would make every accuracy untrue.

    Raises:
        KitError: it has, and this run is no final fit, which looks at no accuracy.
    """
    if not ours.train.final_fit and (why := leak(theirs, ours, held_out)):
        raise KitError(f"{source} {why}")


def has_seen(file: Path, ours: Config, held_out: bool) -> bool:
    """Whether a final fit's teacher has learnt from the photos that are to validate, as far as its file tells."""
    if is_packed(file):
        theirs: Config | None = unpack(file).config
    else:
        theirs = config_in(saved, read_checkpoint(saved)) if (saved := described(file)) else config_beside(file)
    return bool(theirs and leak(theirs, ours, held_out))


def leak(theirs: Config, ours: Config, held_out: bool) -> str:
    """Why it has learnt from photos that validate here, empty where it has not: what a final fit trained has, and where validation is held
    out of training what was trained with another seed or share. `data.subset` takes its shares after that, so another one leaves both
    parts apart."""
    if theirs.train.final_fit:
        return (
            "is of a run with train.final_fit: it has learnt from the validation photos, no accuracy here would be true. Give one that was "
            "trained without, or learn from them here, too: --set train.final_fit=true."
        )
    both = {"train.seed": (theirs.train.seed, ours.train.seed), "data.holdout": (theirs.data.holdout, ours.data.holdout)}
    differ = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    if not (held_out and differ):
        return ""
    says = " and ".join(f"{name} {their}, this run has {our}" for name, (their, our) in differ.items())
    return (
        f"was trained with {says}. There is no validation folder, and so it has learnt from photos that this run holds out to validate. "
        f"Hold out the same ones: {' '.join(f'--set {name}={their}' for name, (their, _) in differ.items())}."
    )


def from_checkpoint(saved: Saved, classes: tuple[str, ...] | None) -> tuple[nn.Module, Config]:
    """The best weights of a stage so far, in a network of their shape, and what it was trained with."""
    refuse_other_layers(saved)
    content = read_checkpoint(saved)
    config, weights = config_in(saved, content), weights_in(content["state"])
    outputs = outputs_of(weights)
    if classes is not None and outputs != len(classes):
        raise KitError(f"The teacher {saved.path} has {outputs} outputs, the data has {len(classes)} classes. Give one of these classes.")
    if saved.stage == "teacher":
        teacher = build_teacher(config.teacher.arch, outputs)
        teacher.load_state_dict(weights)
        return teacher, config
    if (student := as_network(weights, config.student.name)) is None:
        raise KitError(f"{saved.path} is no {config.student.name!r} as this version of the kit builds it. Give its run's student.kit.")
    return student, config
