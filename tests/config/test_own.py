"""A recipe from a file of the user's own, and each way in which such a file goes wrong."""

import sys

import pytest

from kit.config.override import override
from kit.config.own import find_recipe
from kit.config.recipes import recipe
from kit.errors import KitError

OWN = """
from kit.config.recipes import record
from kit.config.override import override


def recipe():
    return override(record(), ["recipe=mine", "train.epochs=3"])
"""


def test_a_file_gives_the_config_that_its_function_returns(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    config = find_recipe(str(tmp_path / "mine.py"))
    assert (config.recipe, config.train.epochs) == ("mine", 3)
    assert find_recipe("record") == recipe("record")


def test_a_file_may_import_its_neighbour(tmp_path):
    (tmp_path / "a_neighbour.py").write_text(OWN)
    (tmp_path / "mine.py").write_text("from a_neighbour import recipe\n")
    before = list(sys.path)
    assert find_recipe(str(tmp_path / "mine.py")).train.epochs == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has no function recipe()"),
        ("recipe = 3", "has no function recipe()"),
        ("def recipe():\n    return 3", "gives int, a Config was expected"),
        (OWN.replace("return ", ""), "Is there a return in it?"),
        ("import nothing_like_it", "line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def recipe(:", "line 1: invalid syntax: def recipe(:"),
        ("def recipe():\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("def recipe():\n    raise SystemExit(3)", "line 2: SystemExit: 3"),
        (OWN.replace("train.epochs", "train.epoch"), "line 7: --set train.epoch: there is no 'epoch' here. Nearest: epochs"),
        ("from kit.config.schema import Train\nTrain(epochs=1, batchsize=3)", "line 2: Train is refused: batchsize: there is no such"),
        ("from kit.config.schema import Train\nTrain(epochs=1, batchsize=3)", "Nearest: batch_size"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, words):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(KitError) as error:
        find_recipe(str(file))
    assert words in str(error.value)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there_is_refused_with_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(KitError, match=r"no recipe file .*main\.py\. Nearest: mine\.py"):
        find_recipe(str(tmp_path / "main.py"))
    with pytest.raises(KitError, match="kit new NAME"):
        find_recipe(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match=r"write \./mine\.py"):
        find_recipe("mine")


def test_a_field_without_its_section_is_found_in_it():
    with pytest.raises(KitError, match=r"Nearest: train\.epochs"):
        override(recipe("record"), ["epochs=3"])
    with pytest.raises(KitError, match="Nearest: keep"):
        override(recipe("record"), ['prune={"keeep": 0.5}'])
