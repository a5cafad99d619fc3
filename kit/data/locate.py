"""Where below a folder a data set lies, by the names of its splits' folders or of CIFAR's files; and what is there where none does."""

import os
from pathlib import Path

from kit.console import counted
from kit.data import records
from kit.data.folders import OF_A_MAC, PHOTO, Folder, read_folder
from kit.errors import KitError

SPLITS = {
    "training": ("training", "train"),
    "validation": ("validation", "valid", "val"),
    "evaluation": ("evaluation", "testing", "test"),
}

Found = list[tuple[Path, dict[str, Path] | records.Kind]]  # folders that hold a data set, and its split folders or kind of records
Halves = list[tuple[Path, dict[str, Path]]]  # folders that hold some of a data set's splits, and those


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
    """All data sets below `root`, and what could be half of one; in no hidden folder, but where that is `root` itself.

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
        folders[:] = sorted(name for name in folders if name[0] != "." and name != OF_A_MAC)  # a desktop's trash, a .venv with its test/
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
    packed, here = ", ".join(path.name for path in sorted(root.iterdir()) if is_archive(path)), read_folder(root)
    if not packed:
        return out_of_shape(here, halves)
    if not (halves or here.photos or here.with_photos):
        return f"Unpack {packed} first."
    return f"Unpack {packed} first, unless that is done. {out_of_shape(here, halves)}"


def out_of_shape(here: Folder, halves: Halves) -> str:
    """here: the folder that was named, or one in it."""
    root = here.path
    shape = "The shape is train/<class>/*.jpg and test/*.jpg: docs/your-own-photos.md shows how to sort photos into it."
    if halves:
        place, parts = halves[0]
        missing = "test/, the photos to predict" if "training" in parts else "train/, the photos to learn from"
        return f"There is {', '.join(map(str, parts.values()))}; beside it, in {place}, is no {missing}. {shape}"
    above = "give the folder above it, or " if root.resolve().name.lower() in {name for names in SPLITS.values() for name in names} else ""
    if folders := here.with_photos:
        if table := next(iter(sorted(root.glob("*.csv"))), None):
            return f"Where the labels are in {table}, docs/your-own-photos.md shows how to sort photos by a table. {shape}"
        held = counted(len(folders), "folder of photos", "folders of photos")
        return f"{root} itself holds {held}, {folders[0].path.name} for one: {above}move them into train/. {shape}"
    if link := next((path for path in sorted(root.iterdir()) if path.is_symlink() and path.is_dir()), None):
        return f"{link} is a link, and links are not followed: give --data {link}. {shape}"
    if here.photos:
        return f"{root} itself holds {counted(len(here.photos), 'photo')}, {here.photos[0].name} for one: {above}sort them. {shape}"
    if below := next((folder for folder in here.below if folder.with_photos), None):
        return out_of_shape(below, [])
    if here.strangers:
        return f"What is there, such as {here.strangers[0]}, is no photo of a kind that is read ({', '.join(sorted(PHOTO))}). {shape}"
    return f"Check that the archive is unpacked and that --data points at it or above it. {shape}"


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in {".zip", ".gz", ".xz", ".tar", ".7z"} and path.is_file()


def inside(split: Path) -> Path:
    """The 2021 course put a split's labelled photos one folder deeper."""
    return next((place for name in ("labelled", "labeled") if os.path.isdir(place := split / name)), split)
