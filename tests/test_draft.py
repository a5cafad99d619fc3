"""`kit new`: the file that it writes is one that `kit run` takes, fitted to the photos."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.config.own import find_recipe
from kit.data.layout import find_dataset
from kit.draft import draft, side_for
from kit.errors import KitError


@pytest.fixture
def here(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return drawn


def test_the_file_is_a_recipe_for_these_photos(here):
    said = CliRunner().invoke(app, ["new", "my-shapes", "--data", str(here)]).output.replace("\n", "")
    assert f"kit run ./my-shapes.py --data {here} --tiny" in said
    config = find_recipe("./my-shapes.py")
    assert (config.recipe, config.competition, config.limit, config.data.image_size) == ("my-shapes", "any", "60000params", 48)
    assert (config.student.name, config.train.batch_size) == ("fine-gated", 32)
    printed = CliRunner().invoke(app, ["run", "./my-shapes.py", "--dry-run"]).output
    assert "limit 60,000" in printed


def test_photos_in_a_known_competitions_shape_get_its_rules(here, tmp_path):
    photos = tmp_path / "photos"
    for split, count in (("training", 110), ("evaluation", 2218)):
        (photos / split).mkdir(parents=True)
        for i in range(count):
            (photos / split / (f"{i % 11}_{i}.jpg" if split == "training" else f"{i:04d}.jpg")).touch()
    list(draft("food", photos, tmp_path))
    config = find_recipe("./food.py")
    assert (config.competition, config.limit, config.student.parameters) == ("hw13-2023", None, 60_000)


def test_nothing_is_written_over_or_under_a_taken_name(here, tmp_path):
    list(draft("mine", here, tmp_path))
    wrong = {"mine": "is there already", "record": "has a recipe 'record'", "a/b": "is no name", "mine.py": "is no name"}
    wrong |= dict.fromkeys(("numbers", "torch", "kit"), "which .*.py would hide from it. Choose another name, such as my-")
    for name, words in wrong.items():
        with pytest.raises(KitError, match=words):
            list(draft(name, here, tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError, match="No data set below"):
        list(draft("other", tmp_path / "empty", tmp_path))
    assert not (tmp_path / "other.py").exists()


@pytest.mark.parametrize("name", ["my photos", r"my\users"])
def test_a_folders_name_is_quoted_where_it_is_to_be_copied(here, tmp_path, name):
    shutil.copytree(here, tmp_path / name)
    assert f"--data '{name}' --tiny" in list(draft("mine", Path(name), tmp_path))[-1]
    assert f"--data '{name}' --budget 9h" in (tmp_path / "mine.py").read_text()
    assert find_recipe("./mine.py").recipe == "mine"


def test_a_share_is_held_out_that_so_few_photos_can_be_divided_by(here, tmp_path):
    """A fifth of twelve photos has none for some of six classes."""
    few = shutil.copytree(here, tmp_path / "few", ignore=shutil.ignore_patterns("validation", "?_[2-9].jpg", "?_1?.jpg"))
    list(draft("few", few, tmp_path))
    config = find_recipe("./few.py")
    assert config.data.holdout == 0.5
    find_dataset(few, None, config.data.holdout, config.train.seed)


def test_small_photos_get_the_smallest_side(real):
    assert side_for(find_dataset(real / "food101-regrouped", None, 0.2, 0).training) == 64
