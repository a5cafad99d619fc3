"""What only real photos can tell; skipped where they are not."""

import pytest

from kit import predict
from kit.config.competitions import FOOD11
from kit.config.schema import Data
from kit.data.cache import load_photos
from kit.data.layout import find_dataset
from kit.data.splits import subset
from kit.models.teacher import load_teacher


def test_the_hw13_layout_is_found_with_its_published_numbers(real):
    dataset = find_dataset(real / "food101-regrouped", FOOD11, 0.2, 0)
    assert [len(split) for split in dataset.splits] == [9_993, 4_432, 2_218]
    assert dataset.evaluation.paths[-1].name == "2217.jpg"
    assert not dataset.held_out


@pytest.mark.slow
def test_the_teacher_sees_the_photos_as_it_was_trained_to(real, tmp_path, log):
    """A quarter of validation through cache, warp and teacher: its published 0.6848 within sampling error and the crop's gain."""
    root = real / "food101-regrouped"
    split = subset(find_dataset(root, FOOD11, 0.2, 0), 0.25, seed=1).validation
    data = Data(image_size=96)
    photos = load_photos([split], data.cache_side, tmp_path, log, workers=2)["validation"]
    teacher = load_teacher(root / "resnet18_teacher.ckpt", "torchvision/resnet18", 11)
    assert photos.pixels.shape[1] == 64
    assert predict.scores(teacher, photos, data)["accuracy"] == pytest.approx(0.69, abs=0.04)
