"""CIFAR's binary files are read as they are."""

import numpy as np
import pytest

from kit.config.competitions import competition
from kit.console import Log
from kit.data.cache import load_photos
from kit.data.decode import photo_size, read_rgb
from kit.data.layout import find_dataset
from kit.errors import KitError
from kit.submission import ids_for

NAMES = {
    100: ("fine_label_names.txt", ["train.bin"], "test.bin"),
    10: ("batches.meta.txt", [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin"),
}
A_CLASS = {100: 5, 10: 60}  # training photos


def write(folder, classes):
    """The published files with random pixels: those of training, uint8 [N, 32, 32, 3], in order."""
    generator = np.random.default_rng(classes)
    names, training, evaluation = NAMES[classes]
    (folder / names).write_text("".join(f"class_{i}\n" for i in range(classes)) + "\n" * (classes == 10))
    labels = np.tile(np.arange(classes, dtype=np.uint8), A_CLASS[classes])
    pixels = generator.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    coarse = [labels // 5] * (classes == 100)
    whole = np.column_stack([*coarse, labels, pixels.reshape(len(labels), -1)])
    for name, part in zip(training, np.split(whole, len(training)), strict=True):
        part.tofile(folder / name)
    whole[::-1].tofile(folder / evaluation)
    return pixels.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("classes", [100, 10])
def test_records_are_photos_with_their_classes_names(tmp_path, classes):
    (tmp_path / "below").mkdir()
    pixels = write(tmp_path / "below", classes)
    dataset = find_dataset(tmp_path, None, 0.2, seed=0)
    assert dataset.classes == tuple(f"class_{i}" for i in range(classes))
    assert [len(split) for split in dataset.splits] == [len(pixels) * 4 // 5, len(pixels) // 5, len(pixels)]
    assert dataset.held_out
    assert dataset.evaluation.labels.tolist() == [*range(classes - 1, -1, -1)] * A_CLASS[classes]
    photos = load_photos(list(dataset.splits), 32, tmp_path / "cache", Log(silent=True))
    assert (photos["evaluation"].pixels == pixels[::-1]).all()
    assert ids_for(photos["evaluation"].names, competition("any"))[:2] == ["00000", "00001"]
    path, label = dataset.training.paths[-1], dataset.training.labels[-1]
    assert (np.asarray(read_rgb(path)) == photos["training"].pixels[-1]).all()
    assert photos["training"].labels[-1] == label
    assert photo_size(path) == (32, 32)


def test_a_changed_record_is_another_data_set(tmp_path):
    write(tmp_path, 100)
    digest = lambda: load_photos([find_dataset(tmp_path, None, 0.2, 0).evaluation], 32, tmp_path / "cache", Log(silent=True))  # noqa: E731
    before = digest()["evaluation"].digest
    with open(tmp_path / "test.bin", "r+b") as file:
        file.seek(3074 * 7 + 100)
        file.write(b"another")
    assert digest()["evaluation"].digest != before


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path, 100)
    with pytest.raises(KitError, match="holds 100 classes, the competition has 11 classes"):
        find_dataset(tmp_path, tuple("abcdefghijk"), 0.2, 0)
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\n")
    with pytest.raises(KitError, match="names 2 classes, and a record has label 99"):
        find_dataset(tmp_path, None, 0.2, 0)
    (tmp_path / "fine_label_names.txt").unlink()
    assert find_dataset(tmp_path, None, 0.2, 0).classes == tuple(map(str, range(100)))
    whole = (tmp_path / "train.bin").read_bytes()
    for part in (whole[:-1], b""):
        (tmp_path / "train.bin").write_bytes(part)
        with pytest.raises(KitError, match=f"train.bin has {len(part):,} bytes, which are no whole records of 3,074"):
            find_dataset(tmp_path, None, 0.2, 0)
