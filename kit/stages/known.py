"""The photos for a student that is there already: they must be of the classes that it knows."""

from dataclasses import dataclass
from pathlib import Path

from kit.config.schema import Config
from kit.console import Log
from kit.data.cache import Photos, load_photos
from kit.data.layout import find_dataset
from kit.data.splits import Dataset
from kit.errors import KitError
from kit.stages.teacher_file import refuse_other_classes


@dataclass(frozen=True)
class Labelled:
    """What a student is changed and measured with."""

    training: Photos
    validation: Photos
    classes: tuple[str, ...]


def dataset_for(student: Path, classes: tuple[str, ...] | int, data: Path, config: Config, divided: bool = True) -> Dataset:
    """The data set below `data`, labels in the student's order of classes; of a stranger's, which knows only how many, whatever is there.

    Args:
        divided: where there is no validation split, hold one out of training as the student's run does.
    Raises:
        KitError: they are others, or some of the student's are missing.
    """
    holdout = config.data.holdout if divided else None
    found = find_dataset(data, None, holdout, config.train.seed)
    if isinstance(classes, int):
        if classes != len(found.classes):
            raise KitError(f"{student} has {classes} outputs, the data has {len(found.classes)} classes. Give photos of its own classes.")
        return found
    if found.classes != tuple(map(str, range(len(found.classes)))):  # labels in the photos' names are numbers of any class
        refuse_other_classes(student, tuple(sorted(classes)), tuple(sorted(found.classes)))
    found = find_dataset(data, classes, holdout, config.train.seed)
    refuse_other_classes(student, classes, found.classes)
    return found


def labelled_for(student: Path, classes: tuple[str, ...] | int, data: Path, config: Config, cache: Path) -> Labelled:
    """The labelled photos below `data`, decoded. Raises as `dataset_for` and `load_photos`."""
    dataset = dataset_for(student, classes, data, config)
    photos = load_photos(dataset.splits[:2], config.data.cache_side, cache, Log(), skip_bad=config.data.skip_bad)
    return Labelled(photos["training"], photos["validation"], dataset.classes)
