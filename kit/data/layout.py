"""Find a data set below a folder by its shape, and refuse what would waste a night.

Three shapes are known, at any depth: the course's flat one (`training/3_17.jpg`, the label before the underscore), class folders
(`train/<class>/*.jpg`), and CIFAR's binary files. Evaluation photos may be unlabelled; where there is no validation split, a stratified one
is held out. More training photos without labels may lie in `unlabelled/`, or in `training/unlabeled/` as in 2021; their label is -1.
"""

import errno
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np

from kit.console import counted
from kit.data import records
from kit.data.splits import Dataset, Split, stratify, without_labels
from kit.errors import KitError

SPLITS = {
    "training": ("training", "train"),
    "validation": ("validation", "valid", "val"),
    "evaluation": ("evaluation", "testing", "test"),
}
UNLABELLED = ("unlabelled", "unlabeled")
PHOTO = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")
OF_A_MAC = "__MACOSX"  # a Mac's zip has the same folders once more in it, with a ._name.jpg of the Mac's own for each photo
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
    folder, parts = locate(root)
    if isinstance(parts, records.Kind):
        return read_records(folder, parts, classes, holdout, seed)
    names = class_names(parts["training"], classes)
    training = read_labelled(parts["training"], "training", names)
    if (training.labels == training.labels[0]).all():
        raise KitError(
            f"All {len(training):,} photos to learn from are of one class, {names[training.labels[0]]} in {training.paths[0].parent}: "
            "there is nothing to tell apart. Is --data one folder too high or too deep? Sort them as docs/your-own-photos.md shows, into "
            f"{parts['training']}/<class>/."
        )
    if "validation" in parts:
        validation = read_labelled(parts["validation"], "validation", names)
    else:
        training, validation = divided(training, holdout, seed)
    evaluation, more = read_evaluation(parts["evaluation"], names), read_unlabelled(folder, parts["training"])
    strange = tuple(file for part in parts.values() for file in strangers(part))
    empty = tuple(place for place in folders_below(parts["training"]) if not photos_in(place))
    deeper = tuple(place for part in parts.values() for place in deeper_in(part))
    return Dataset(folder, names, training, validation, evaluation, "validation" not in parts, more, strange, empty, deeper)


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
    paths = [path for below in (places[0], *folders_in(places[0])) for path in photos_in(below)]
    if not paths:
        raise KitError(f"{places[0]} holds no photo ({', '.join(sorted(PHOTO))}). Is the archive unpacked whole? Else remove the folder.")
    return without_labels("unlabelled", paths)


Found = list[tuple[Path, dict[str, Path] | records.Kind]]  # folders that hold a data set, and its split folders or kind of records
Halves = list[tuple[Path, dict[str, Path]]]  # folders that hold some of a data set's splits, and those


def find_photos(root: Path, classes: tuple[str, ...]) -> Split | None:
    """Photos to predict that lie alone, in `root` or in its test/; None where there is a data set or no such photo.

    classes: of the student; folders of theirs give labels.
    """
    found, halves = walk(root)
    here = dict(halves).get(root, {})
    if found or "training" in here:
        return None
    alone = here.get("evaluation", root)
    folders = {folder.name for folder in folders_in(root)}
    theirs = bool(folders) and folders <= set(classes)
    return read_evaluation(alone, classes) if alone != root or photos_in(root) or theirs else None


def locate(root: Path) -> tuple[Path, dict[str, Path] | records.Kind]:
    """The one folder that holds a training and an evaluation split, and its split folders or what kind of records it holds."""
    found, halves = walk(root)
    if not found:
        raise KitError(
            f"No data set below {root}: none of its folders holds both training/ (or train/) and evaluation/ (or testing/, test/). "
            + there_instead(root, halves)
        )
    if len(found) > 1:
        places = ", ".join(str(place) for place, _ in found)
        raise KitError(f"{len(found)} data sets below {root}: {places}. Point --data at one of them.")
    return found[0]


def walk(root: Path) -> tuple[Found, Halves]:
    """All data sets below `root`, and what could be half of one.

    Raises:
        KitError: it is no folder, or two folders of one data set could be the same split.
    """
    if is_archive(root):
        raise KitError(f"{root} is an archive. Unpack it and give the folder.")
    if root.is_file():
        raise KitError(f"{root} is a file. Give --data the folder that holds training/ and evaluation/, or one above it.")
    if not root.is_dir():
        raise KitError(f"There is no folder {root}. Give --data the folder that holds training/ and evaluation/, or one above it.")
    found: Found = []
    halves: Halves = []
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name != OF_A_MAC)
        named = {split: [there for name in names for there in folders if there.lower() == name] for split, names in SPLITS.items()}
        parts = {split: inside(Path(place, names[0])) for split, names in named.items() if names}
        if {"training", "evaluation"} <= parts.keys():
            if both := next((names for names in named.values() if len(names) > 1), None):
                raise KitError(f"{place} holds {'/ and '.join(both)}/, which are two names of one split. Move one away.")
            found.append((Path(place), parts))
            folders[:] = []  # a data set holds no other
        elif kind := records.kind_among(files):
            found.append((Path(place), kind))
        elif parts:
            halves.append((Path(place), parts))
    return found, halves


def there_instead(root: Path, halves: Halves) -> str:
    """What was found where no data set is, and what to do."""
    if packed := ", ".join(path.name for path in sorted(root.iterdir()) if is_archive(path)):
        return f"Unpack {packed} first."
    shape = "The shape is train/<class>/*.jpg and test/*.jpg: docs/your-own-photos.md shows how to sort photos into it."
    if halves:
        place, parts = halves[0]
        missing = "test/, the photos to predict" if "training" in parts else "train/, the photos to learn from"
        return f"There is {', '.join(map(str, parts.values()))}; beside it, in {place}, is no {missing}. {shape}"
    above = "give the folder above it, or " if root.resolve().name.lower() in {name for names in SPLITS.values() for name in names} else ""
    if folders := folders_in(root):
        if table := next(iter(sorted(root.glob("*.csv"))), None):
            return f"Where the labels are in {table}, docs/your-own-photos.md shows how to sort photos by a table. {shape}"
        inside = counted(len(folders), "folder of photos", "folders of photos")
        return f"{root} itself holds {inside}, {folders[0].name} for one: {above}move them into train/. {shape}"
    if link := next((path for path in sorted(root.iterdir()) if path.is_symlink() and path.is_dir()), None):
        return f"{link} is a link, and links are not followed: give --data {link}. {shape}"
    if photos := photos_in(root):
        return f"{root} itself holds {counted(len(photos), 'photo')}, {photos[0].name} for one: {above}sort them. {shape}"
    return f"Check that the archive is unpacked and that --data points at it or above it. {shape}"


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in {".zip", ".gz", ".xz", ".tar", ".7z"} and path.is_file()


def inside(split: Path) -> Path:
    """The 2021 course put a split's labelled photos one folder deeper."""
    return next((place for name in ("labelled", "labeled") if (place := split / name).is_dir()), split)


def photos_in(folder: Path) -> list[Path]:
    """Ordered by name.

    Raises:
        KitError: a name or its folder's is no UTF-8, as of an archive that was made elsewhere: no CSV and no student.kit could hold it. Or
            a link leads nowhere, as where large files were not fetched.
    """
    with os.scandir(folder) as entries:
        named = [e for e in entries if Path(e.name).suffix.lower() in PHOTO and e.name[0] != "." and not is_folder(e)]
    if gone := next((e.path for e in named if e.is_symlink() and not os.path.exists(e.path)), None):
        raise KitError(f"{gone} is a link to {os.readlink(gone)}, which is not there. Fetch the photos themselves, or remove the link.")
    found = sorted((Path(e) for e in named), key=lambda p: p.name)
    if odd := next((p for p in found if os.fsencode(p) != str(p).encode(errors="replace")), None):
        raise KitError(f"The name of {str(odd)!a} is no UTF-8. Rename it, and what else came with it.")
    return found


def strangers(split: Path) -> list[Path]:
    """What is no photo in a split or its folders, such as a phone's .heic or a link to nothing; not what systems leave in any folder."""
    files = (path for below in (split, *folders_below(split)) for path in below.iterdir())
    named = (p for p in files if p.suffix.lower() not in PHOTO and p.name[0] != "." and p.name.lower() not in LEFT_BY_SYSTEMS)
    return sorted(path for path in named if not path.is_dir())  # asked last: a disk is slow to tell it of thousands of photos


def class_folders(folder: Path) -> list[Path]:
    """A split's, none where its photos lie side by side.

    Raises:
        KitError: it has both.
    """
    found, loose = folders_in(folder), photos_in(folder)
    if found and loose:
        raise KitError(
            f"{folder} holds {counted(len(loose), 'photo')} and, beside them, folders of photos, {found[0].name} for one: sort the photos "
            "into those, or move the folders away."
        )
    return found


def folders_in(folder: Path) -> list[Path]:
    return [place for place in folders_below(folder) if photos_in(place)]


def folders_below(folder: Path) -> list[Path]:
    entries = (entry for entry in os.scandir(folder) if is_folder(entry))
    return sorted(Path(entry) for entry in entries if entry.name not in (*UNLABELLED, OF_A_MAC) and entry.name[0] != ".")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Told by the folder that it is in: no photo is asked, but for links. One that leads to itself is none."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False


def deeper_in(split: Path) -> list[Path]:
    """Folders of photos below a class's folder, which are not read."""
    return [place for folder in folders_below(split) for place in folders_in(folder)]


def class_names(training: Path, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes in the order of their labels: the competition's where they fit, else what the training split says."""
    if folders := class_folders(training):
        return fitting(in_order([p.name for p in folders]), classes, f"{training} holds {{}} class folders")
    if classes:
        return classes
    labels = flat_labels(training)
    if labels.max() >= len(labels):
        raise KitError(
            f"{photos_in(training)[labels.argmax()]} would be of class {labels.max()}, and there are {len(labels):,} photos in all: the "
            "numbers before the underscores are no labels 0, 1, 2 …. Sort the photos into a folder per class."
        )
    return tuple(map(str, range(labels.max() + 1)))


def in_order(names: list[str]) -> tuple[str, ...]:
    """As they are sorted; where all are numbers by those, so that the folder 10 is class 10 of eleven, and not class 2."""
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def fitting(found: tuple[str, ...], classes: tuple[str, ...] | None, says: str) -> tuple[str, ...]:
    """The competition's classes where they are the ones found, else those. says: where they were found, with a place for their number.

    Raises:
        KitError: the competition has another number of them.
    """
    if classes and len(found) != len(classes):
        raise KitError(
            f"{says.format(len(found))}, the competition has {len(classes)} classes. For a data set of its own use "
            "--set competition=any (of kit check: --competition any)."
        )
    return classes if classes and set(found) == set(classes) else found


def read_labelled(folder: Path, name: str, classes: tuple[str, ...]) -> Split:
    if folders := class_folders(folder):
        unknown = [p for p in folders if p.name not in classes]
        if unknown:
            raise KitError(f"{unknown[0]} is none of the {len(classes)} classes, such as {classes[0]}. Remove it or rename it.")
        pairs = [(path, classes.index(sub.name)) for sub in folders for path in photos_in(sub)]
        return Split(name, tuple(path for path, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64))
    labels, paths = flat_labels(folder), photos_in(folder)
    if labels.max() >= len(classes):
        stray = paths[int(labels.argmax())]
        raise KitError(
            f"{stray} has label {labels.max()}, and only {len(classes)} classes are known, 0 to {len(classes) - 1}. Rename it or move it "
            "away, or take the data set that these classes are of."
        )
    return Split(name, tuple(paths), labels)


def flat_labels(folder: Path) -> np.ndarray:
    """The numbers before the underscores, int64 [N], in the order of the names."""
    paths = photos_in(folder)
    if not paths:
        deeper = next((f"Those in {place} lie too deep: move them up, into {place.parent}." for place in deeper_in(folder)), None)
        other = next((f"What is there, such as {path}, is none, or a link to nothing." for path in strangers(folder)), None)
        raise KitError(f"{folder} holds no photo ({', '.join(sorted(PHOTO))}). {deeper or other or 'Is the archive unpacked whole?'}")
    matches = [FLAT_NAME.fullmatch(p.stem) for p in paths]
    unlabelled = [p for p, match in zip(paths, matches, strict=True) if not match]
    if unlabelled:
        raise KitError(
            f"{folder} holds photos without a label, {len(unlabelled)} of {len(paths)}, {unlabelled[0].name} for one. "
            "Name them <label>_<id>.jpg or sort them into a folder per class."
        )
    return np.array([int(match[1]) for match in matches if match], dtype=np.int64)


def read_evaluation(folder: Path, classes: tuple[str, ...]) -> Split:
    """The photos to predict, ordered by name. Several class folders give labels; a single one (the 2021 layout) does not."""
    folders = class_folders(folder)
    place = folders[0] if len(folders) == 1 else folder
    split = read_labelled(place, "evaluation", classes) if len(folders) > 1 else without_labels("evaluation", photos_in(place))
    if not len(split):
        raise KitError(f"{place} holds no photo to predict. Is the archive unpacked whole?")
    ids = [str(Path(name).with_suffix("")) for name in split.names]
    for repeated in [name for name, n in Counter(ids).items() if n > 1]:
        twins = ", ".join(name for name, own in zip(split.names, ids, strict=True) if own == repeated)
        raise KitError(f"{place} has the evaluation id {repeated} more than once: {twins}. An id needs exactly one row; remove the other.")
    return split
