"""The photos for a student that is there already: they must be of the classes that it knows."""

from pathlib import Path

from kit.config.schema import Config
from kit.data.layout import Dataset, find_dataset
from kit.stages.assistant import refuse_other_classes


def dataset_for(student: Path, classes: tuple[str, ...] | None, data: Path, config: Config) -> Dataset:
    """The data set below `data`, labels in the student's order of classes; None: whatever classes are there.

    Raises:
        KitError: they are others, or some of the student's are missing.
    """
    found = find_dataset(data, None, config.data.holdout, config.train.seed)
    if classes is None:
        return found
    if found.classes != tuple(map(str, range(len(found.classes)))):  # labels in the photos' names are numbers of any class
        refuse_other_classes(student, tuple(sorted(classes)), tuple(sorted(found.classes)))
    found = find_dataset(data, classes, config.data.holdout, config.train.seed)
    refuse_other_classes(student, classes, found.classes)
    return found
