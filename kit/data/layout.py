"""Read a data set's splits by their shape, and refuse what would waste a night.

Three shapes are known, at any depth: the course's flat one (`training/3_17.jpg`, the label before the underscore), class folders
(`train/<class>/*.jpg`), and CIFAR's binary files. Evaluation photos may be unlabelled; where there is no validation split, a stratified one
is held out. More training photos without labels may lie in `unlabelled/`, or in `training/unlabeled/` as in 2021; their label is -1.
"""

import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np

from kit.console import counted
from kit.data import records
from kit.data.folders import PHOTO, UNLABELLED, Folder, read_folder
from kit.data.locate import locate, walk
from kit.data.splits import NUMBER, Dataset, Split, stratify, without_labels
from kit.errors import KitError

FLAT_NAME = re.compile(r"(\d{1,18})_.+")  # a longer number is none that an int64 holds, and no label


def find_dataset(root: Path, classes: tuple[str, ...] | None, holdout: float | None, seed: int) -> Dataset:
    """The one data set below `root`.

    Args:
        classes: the competition's, or None to take what the folders or labels say.
        holdout: share of training to hold out where there is no validation split; None: none is, and validation is empty there.
        seed: of that held-out share.
    Raises:
        KitError: no data set, two of them, one class alone, an empty split, a label out of range, an unlabelled training photo, a repeated
            evaluation id: each with the path and the remedy.
    """
    place, found = locate(root)
    if isinstance(found, records.Kind):
        return read_records(place, found, classes, holdout, seed)
    parts = {split: read_folder(folder) for split, folder in found.items()}
    names = class_names(parts["training"], classes)
    training = read_labelled(parts["training"], "training", names)
    if (training.labels == training.labels[0]).all():
        sort = f"Sort them as docs/your-own-photos.md shows, into {found['training']}/<class>/."
        other = next((no_photo_in(folder) for folder in parts["training"].below if not folder.photos), None)
        raise KitError(
            f"All {len(training):,} photos to learn from are of one class, {names[training.labels[0]]} in {training.paths[0].parent}: "
            f"there is nothing to tell apart. {other or f'Is --data one folder too high or too deep? {sort}'}"
        )
    if "validation" in parts:
        validation = read_labelled(parts["validation"], "validation", names)
    else:
        training, validation = divided(training, holdout, seed)
    evaluation, more = read_evaluation(parts["evaluation"], names), read_unlabelled(place, found["training"])
    strange = tuple(file for part in parts.values() for file in strangers(part))
    empty = tuple(folder.path for folder in parts["training"].below if not folder.photos)
    deeper = tuple(folder for part in parts.values() for folder in deeper_in(part))
    return Dataset(place, names, training, validation, evaluation, "validation" not in parts, more, strange, empty, deeper)


def read_records(folder: Path, kind: records.Kind, classes: tuple[str, ...] | None, holdout: float | None, seed: int) -> Dataset:
    """CIFAR's binary files; its evaluation photos have labels, and validation is held out of training."""
    paths, labels = records.list_records(folder, kind.training)
    names = fitting(records.class_names(folder, kind, labels), classes, f"{folder} holds {{}} classes")
    training, validation = divided(Split("training", tuple(paths), labels), holdout, seed)
    paths, labels = records.list_records(folder, (kind.evaluation,))
    evaluation = Split("evaluation", tuple(paths), labels)
    return Dataset(folder, names, training, validation, evaluation, held_out=True)


def divided(training: Split, holdout: float | None, seed: int) -> tuple[Split, Split]:
    """(training, what is held out of it to validate)."""
    if holdout is None:
        return training, training.take(np.zeros(0, int), "validation")
    keep, held = stratify(training, holdout, seed, "data.holdout")
    return training.take(keep), training.take(held, "validation")


def read_unlabelled(folder: Path, training: Path) -> Split | None:
    """Photos in `unlabelled/` beside the splits, beside `training/labeled/`, or inside training; None where there is no such folder."""
    places = [place for above in (folder, training, training.parent) for name in UNLABELLED if (place := above / name).is_dir()]
    if not places:
        return None
    found = read_folder(places[0])
    paths = [path for folder in (found, *found.with_photos) for path in folder.photos]
    if not paths:
        raise KitError(f"{places[0]} holds no photo ({', '.join(sorted(PHOTO))}). Is the archive unpacked whole? Else remove the folder.")
    return without_labels("unlabelled", paths)


def find_photos(root: Path, classes: tuple[str, ...]) -> tuple[Split, list[Path]] | None:
    """Photos to predict that lie alone, in `root` or in its test/, and what is none beside them; None where there is a data set or no such
    photo.

    classes: of the student; folders of theirs give labels.
    """
    found, halves = walk(root)
    here = dict(halves).get(root, {})
    if found or "training" in here:
        return None
    alone = read_folder(here.get("evaluation", root))
    folders = {folder.path.name for folder in alone.with_photos}
    if "evaluation" in here or alone.photos or (folders and folders <= set(classes)):
        return read_evaluation(alone, classes), strangers(alone)
    return None


def class_folders(split: Folder) -> tuple[Folder, ...]:
    """A split's, none where its photos lie side by side.

    Raises:
        KitError: it has both.
    """
    found, loose = split.with_photos, split.photos
    if found and loose:
        raise KitError(
            f"{split.path} holds {counted(len(loose), 'photo')} and, beside them, folders of photos, {found[0].path.name} for one: sort "
            "the photos into those, or move the folders away."
        )
    return found


def strangers(split: Folder) -> list[Path]:
    """What is no photo in a split or its folders."""
    return sorted(path for folder in (split, *split.below) for path in folder.strangers)


def deeper_in(split: Folder) -> list[Path]:
    """Folders of photos below a class's folder, which are not read."""
    return [deeper.path for folder in split.below for deeper in folder.with_photos]


def class_names(training: Folder, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes in the order of their labels: the competition's where they fit, else what the training split says."""
    if folders := class_folders(training):
        return fitting(in_order([folder.path.name for folder in folders]), classes, f"{training.path} holds {{}} class folders")
    if classes:
        return classes
    labels = flat_labels(training)
    if labels.max() >= len(labels):
        raise KitError(
            f"{training.photos[labels.argmax()]} would be of class {labels.max()}, and there are {len(labels):,} photos in all: the "
            "numbers before the underscores are no labels 0, 1, 2 …. Sort the photos into a folder per class."
        )
    return tuple(map(str, range(labels.max() + 1)))


def in_order(names: list[str]) -> tuple[str, ...]:
    """As they are sorted; where all are numbers by those, so that the folder 10 is class 10 of eleven, and not class 2, nor 10.0."""
    return tuple(sorted(names, key=Decimal) if all(map(NUMBER.fullmatch, names)) else names)


def fitting(found: tuple[str, ...], classes: tuple[str, ...] | None, says: str) -> tuple[str, ...]:
    """The competition's classes where they are the ones found, else those. says: where they were found, with a place for their number.

    Raises:
        KitError: the competition has another number of them.
    """
    if classes and len(found) != len(classes):
        raise KitError(
            f"{says.format(len(found))}, the competition has {len(classes)} classes. Give that competition's photos; for a "
            "data set of your own there are `kit run … --set competition=any` and `kit check … --competition any`."
        )
    return classes if classes and set(found) == set(classes) else found


def read_labelled(split: Folder, name: str, classes: tuple[str, ...]) -> Split:
    if folders := class_folders(split):
        if unknown := next((folder.path for folder in folders if folder.path.name not in classes), None):
            raise KitError(f"{unknown} is none of the {len(classes)} classes, such as {classes[0]}. Remove it or rename it.")
        counts, paths = [len(folder.photos) for folder in folders], [path for folder in folders for path in folder.photos]
        return Split(name, tuple(paths), np.repeat([classes.index(folder.path.name) for folder in folders], counts))
    labels = flat_labels(split)
    if labels.max() >= len(classes):
        raise KitError(
            f"{split.photos[labels.argmax()]} has label {labels.max()}, and only {len(classes)} classes are known, 0 to "
            f"{len(classes) - 1}. Rename it or move it away, or take the data set that these classes are of."
        )
    return Split(name, split.photos, labels)


def flat_labels(split: Folder) -> np.ndarray:
    """The numbers before the underscores, int64 [N], in the order of the names."""
    if not split.photos:
        raise KitError(no_photo_in(split))
    matches = [FLAT_NAME.fullmatch(path.stem) for path in split.photos]
    unlabelled = [path for path, match in zip(split.photos, matches, strict=True) if not match]
    if unlabelled:
        raise KitError(
            f"{split.path} holds photos without a label, {len(unlabelled)} of {len(matches)}, {unlabelled[0].name} for one. "
            "Sort them into a folder per class, as docs/your-own-photos.md shows, or name them <label>_<id>.jpg, labels 0, 1, 2 …."
        )
    return np.array([int(match[1]) for match in matches if match], dtype=np.int64)


def no_photo_in(folder: Folder, says: str = "holds no photo") -> str:
    """What a folder holds where photos were to be, and what to do."""
    places = [*(below.path for below in folder.with_photos), *deeper_in(folder)]
    inner = {place.parent for place in places}
    if len(inner) == 1 < len(places) and folder.path not in inner:  # the classes' own, as in train/train/<class>
        remedy = f"The folders in {places[0].parent}, {places[0].name} for one, lie too deep: move them up, into {folder.path}."
    elif places:
        remedy = f"Those in {places[0]} lie too deep: move them up, into {places[0].parent}."
    elif others := strangers(folder):
        remedy = f"What is there, such as {others[0]}, is none, or a link to nothing: save it as one of these kinds, or fetch it."
    else:
        remedy = "Is the archive unpacked whole?"
    return f"{folder.path} {says} ({', '.join(sorted(PHOTO))}). {remedy}"


def read_evaluation(part: Folder, classes: tuple[str, ...]) -> Split:
    """The photos to predict, ordered by name. Several class folders give labels; a single one (the 2021 layout) does not."""
    folders = class_folders(part)
    lone = folders[0] if len(folders) == 1 else part
    split = read_labelled(part, "evaluation", classes) if len(folders) > 1 else without_labels("evaluation", lone.photos)
    if not len(split):
        raise KitError(no_photo_in(lone, "holds no photo to predict"))
    ids = [str(Path(name).with_suffix("")) for name in split.names]
    for repeated in [name for name, n in Counter(ids).items() if n > 1]:
        twins = ", ".join(name for name, own in zip(split.names, ids, strict=True) if own == repeated)
        raise KitError(
            f"{lone.path} has the evaluation id {repeated} more than once: {twins}. An id needs exactly one row; remove the other."
        )
    return split
