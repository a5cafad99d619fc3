"""`kit predict`: a packed student over a split of any data set, or over photos alone; scored where there are labels."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import classification_report

from kit import predict, submission
from kit.compress.pack import Packed, unpack
from kit.config.choices import SplitName
from kit.config.competitions import competition
from kit.console import Log, counted
from kit.data.cache import load_photos
from kit.data.layout import find_photos
from kit.data.splits import Dataset, passed_over
from kit.device import choose_device
from kit.errors import KitError
from kit.names import STUDENT
from kit.stages.known import dataset_for
from kit.target import refuse_overwriting


def predict_split(source: Path, data: Path, out: Path, split: SplitName, cache: Path) -> Iterator[str]:
    """Write the CSV and yield what to say: the scores, the guesses, the file. source: a packed student, or the folder of its run."""
    packed = unpack(file := source / STUDENT if source.is_dir() else source)
    refuse_overwriting(out, file)
    config, rules = packed.config, competition(packed.config.competition)
    submission.refuse_other_table(out, rules)
    alone = find_photos(data, packed.classes) if split == "evaluation" else None
    if alone:
        chosen, strange = alone
        most_frequent, why = 0, "there are no training photos to count classes in"
        numbered = ", ".join(f"{i} {name}" for i, name in enumerate(packed.classes))
        yield f"{counted(len(chosen), 'photo')} below {data} and none to learn from; the classes are those of {file}: {numbered}"
        if strange:
            yield passed_over(strange)
    else:
        dataset = dataset_to_predict(file, packed, data, split)
        most_frequent, why = int(dataset.training.per_class(len(packed.classes)).argmax()), "that is the most frequent in training"
        chosen = next(part for part in dataset.splits if part.name == split)
    photos = load_photos([chosen], config.data.cache_side, cache, Log(), skip_bad=True)[split]  # which are named; there is no --set here
    student = packed.student.to(choose_device().device)
    answer = predict.logits(student, photos, config.data, views=config.predict)
    predicted = predict.classes_of(answer, photos, most_frequent)
    ids = submission.ids_for(photos.names, rules) if split == "evaluation" else list(photos.names)
    submission.write_csv(out, ids, predicted, rules)
    if photos.labelled:
        numbers = np.union1d(photos.labels, predicted)  # a class that is neither there nor answered counts in no mean, as below
        names = [packed.classes[number] for number in numbers]
        yield classification_report(photos.labels, predicted, labels=numbers, target_names=names, digits=4, zero_division=0)
        scores = predict.scores_of(predicted, photos.labels)
        seen = f", which it was trained on ({predict.SEEN})" if config.train.final_fit and split == "validation" else ""
        yield f"accuracy {scores['accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f} on {counted(len(predicted), f'{split} photo')}{seen}"
    for row in photos.bad:
        yield f"row {ids[row]} is a guess, class {most_frequent}: its photo does not decode, and {why}"
    yield f"{out}: {counted(len(predicted), 'row')}"


def dataset_to_predict(file: Path, packed: Packed, data: Path, split: SplitName) -> Dataset:
    """Divided as in the student's run, which knows training and its most frequent class so; where training has too few photos for that,
    only validation can't be predicted."""
    try:
        return dataset_for(file, packed.classes, data, packed.config)
    except KitError:
        if split == "validation":
            raise
        return dataset_for(file, packed.classes, data, packed.config, divided=False)  # what else is wrong it says again
