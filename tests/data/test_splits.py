import shutil

import numpy as np
import pytest

from kit.data.layout import find_dataset
from kit.data.splits import subset
from kit.errors import KitError


def test_a_subset_is_stratified_and_repeatable(drawn):
    small, again = (subset(find_dataset(drawn, None, 0.2, seed=0), 0.5, seed=3) for _ in range(2))
    assert [s.paths for s in small.splits] == [s.paths for s in again.splits]
    assert np.bincount(small.training.labels).tolist() == [10] * 6
    assert len(small.evaluation) == 12


def test_a_class_of_one_photo_is_named_with_what_divides_it(drawn, tmp_path):
    own = shutil.copytree(drawn, tmp_path / "own")
    for photo in list((own / "validation").glob("5_*"))[1:]:
        photo.unlink()
    with pytest.raises(KitError, match=r"the only validation photo of its class.*as --subset asks: add others, or leave out --subset"):
        subset(find_dataset(own, None, 0.2, seed=0), 0.5, seed=3)


def test_any_seed_divides(drawn):
    """A date and time, a negative one."""
    whole = find_dataset(drawn, None, 0.2, seed=0)
    parts = [subset(whole, 0.5, seed=seed).training.paths for seed in (20251127123456, -5, 3)]
    assert len({*parts}) == 3


def test_subsets_of_one_seed_keep_apart_what_is_held_out(drawn, tmp_path):
    """What has learnt from any of them may be validated by any other."""
    own = shutil.copytree(drawn, tmp_path / "own", ignore=shutil.ignore_patterns("validation"))
    parts = [subset(find_dataset(own, None, 0.2, seed=0), share, seed=0) for share in (0.4, 0.7, 1)]
    assert not {p for part in parts for p in part.training.paths} & {p for part in parts for p in part.validation.paths}
