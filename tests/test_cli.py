"""Every verb's help and the words of a mistake, without starting a run."""

import pytest
import torch
from typer.testing import CliRunner

from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.errors import KitError

VERBS = ("run", "sample", "predict", "check", "doctor", "bundle", "inspect", "export", "students", "bench")


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def test_help_lists_every_verb():
    printed = invoke("--help").output
    assert all(verb in printed for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_for_and_shows_an_example(verb):
    printed = invoke(verb, "--help").output
    assert "Example: " in printed


def test_a_dry_run_prints_the_config_and_the_students_size():
    printed = invoke("run", "boss", "--dry-run", "--set", "train.epochs=30").output
    assert '"epochs": 30' in printed
    assert "99,891 parameters" in printed
    assert "limit 100,000" in printed


def test_the_students_are_compared_and_solved_for_a_limit():
    printed = invoke("students", "boss", "bottleneck/4", "--image-size", "32", "--parameters", "60000").output
    assert "59,910" in printed
    assert printed.count("64 46 93 186 101") == 1
    assert "bottleneck/4" in printed
    assert "on the CPU with" in printed.replace("\n", " ")


def test_unknown_names_are_refused_with_the_nearest():
    for words in (["run", "bos", "--dry-run"], ["run", "boss", "--dry-run", "--set", "train.epoch=3"]):
        result = invoke(*words)
        assert isinstance(result.exception, KitError)
        assert "Nearest" in str(result.exception)


def test_doctor_finds_this_machine_fit_and_shows_the_data(drawn, tmp_path):
    result = invoke("doctor", "--data", str(drawn), "--cache", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "120" in result.output


def test_doctor_fails_for_a_folder_without_photos(tmp_path):
    assert invoke("doctor", "--data", str(tmp_path), "--cache", str(tmp_path)).exit_code == 1


def test_a_strangers_weights_are_brought_into_hw7s_format_and_inspected(tmp_path):
    torch.save({"fc.weight": torch.randn(11, 5), "fc.bias": torch.zeros(11)}, tmp_path / "w.ckpt")
    printed = invoke("export", str(tmp_path / "w.ckpt"), "--format", "hw7-8bit", "--out", str(tmp_path / "w.pkl")).output
    assert "hw7-8bit, 2 tensors" in printed
    printed = invoke("inspect", str(tmp_path / "w.pkl")).output
    assert "11×5" in printed
    assert "HW7 pickle, 8 bit, unknown network, 66 parameters" in printed.replace("\n", " ")
