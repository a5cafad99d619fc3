"""What a network answered is kept with the weights and the photos that it is of."""

from dataclasses import replace

import numpy as np

from kit.answers import has_answer, keep_answer
from kit.data.cache import Photos


def test_an_answer_of_other_weights_or_to_other_photos_is_none(tmp_path):
    photos = Photos(np.zeros((2, 16, 16, 3), np.uint8), np.full((2, 2), 16), np.arange(2), ("a", "b"), {}, "these")
    file = tmp_path / "validation.npz"
    assert not has_answer(file, photos, "teacher", "new")
    keep_answer(file, photos, ("x", "y"), "teacher", "new", np.zeros((2, 2), np.float32))
    assert has_answer(file, photos, "teacher", "new")
    assert not has_answer(file, photos, "teacher", "newer")
    assert not has_answer(file, photos, "distil", "new")
    assert not has_answer(file, replace(photos, digest="those"), "teacher", "new")
