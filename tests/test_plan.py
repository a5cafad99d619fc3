import os
import signal
import time
from threading import Thread

import pytest
from typer.testing import CliRunner

from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.config.override import override
from kit.config.recipes import recipe
from kit.console import console
from kit.errors import KitError
from kit.plan import Measured, fit_epochs, measure, sessions, total

HOUR = 3600
BOSS = override(recipe("boss"), ["train.patience=null"])


def test_sessions_and_hours_follow_from_an_epochs_seconds():
    """600 epochs of 43.7 s, the published run: 7.3 hours, one session of 9."""
    published = Measured({"distil": 43.7}, overhead=60)
    assert sessions(BOSS, published, 9 * HOUR) == 1
    assert total(BOSS, published, 9 * HOUR) == pytest.approx(600 * 43.7 + 60)
    assert sessions(BOSS, published, 2 * HOUR) == 4


def test_every_trained_stage_counts():
    pruned = override(BOSS, ['prune={"finetune_epochs": 50}'])
    assert total(pruned, Measured({"distil": 10, "finetune": 5}, 0), HOUR) == 600 * 10 + 50 * 5


def test_every_step_of_pruning_trains_and_counts():
    steps = override(BOSS, ['prune={"finetune_epochs": 50, "steps": 3}'])
    assert total(steps, Measured({"distil": 10, "finetune1": 7, "finetune2": 6, "finetune": 5}, 0), HOUR) == 600 * 10 + 50 * (7 + 6 + 5)


@pytest.mark.parametrize("quota", [1, 5, 30])
def test_the_epochs_that_are_found_fill_the_quota_and_one_more_would_not_fit(quota):
    measured = Measured({"distil": 43.7}, overhead=90)
    found = fit_epochs(BOSS, measured, 2 * HOUR, quota * HOUR).train.epochs
    fitting, more = (override(BOSS, [f"train.epochs={epochs}"]) for epochs in (found, found + 1))
    assert total(fitting, measured, 2 * HOUR) <= quota * HOUR < total(more, measured, 2 * HOUR)


@pytest.mark.slow
def test_a_plan_says_what_it_is_and_names_no_file_that_is_gone_when_it_is_read(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))  # it takes nothing of a /tmp that may be small
    small = [
        word for field in ("data.image_size=32", "data.cache_size=32", "train.batch_size=16", "train.epochs=3") for word in ("--set", field)
    ]
    words = ["plan", "sample", "--data", str(drawn), "--cache", str(tmp_path), "--subset", "0.5", *small]
    first, *lines = CliRunner().invoke(app, words).output.splitlines()
    assert first == "one epoch of everything is measured; nothing of it is kept"
    assert any(line.startswith("finetune: 1 epoch of") for line in lines)
    assert not any(name in line for line in lines for name in ("student.kit", "submission.csv", "report.html", "session 1:"))
    assert lines[-1].startswith("kit run sample --data")
    assert f"--cache {tmp_path} " in lines[-1]  # where the photos are decoded now
    assert "--subset 0.5 " in lines[-1]
    assert "finetune: 1 epoch of 3 steps of 16 photos" in " ".join(lines)  # of 60
    assert lines[-1].count("train.epochs=") == 1
    assert not console.quiet
    assert not list(tmp_path.glob(".plan-*"))


def stop_when_photos_are_read(cache):
    while not list(cache.glob("training-*")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_plan_that_is_stopped_gives_no_figures(drawn, tmp_path):
    Thread(target=stop_when_photos_are_read, args=(tmp_path,), daemon=True).start()
    with pytest.raises(KitError, match="SIGTERM came before everything was measured"):
        measure(recipe("sample").tiny(), drawn, tmp_path, ())


def test_what_can_not_be_planned_is_refused_in_words():
    with pytest.raises(KitError, match="leaves no time to train"):
        sessions(BOSS, Measured({"distil": 10}, overhead=120), 100)
    with pytest.raises(KitError, match=r"Not one epoch of distillation fits into .*: with one the run takes .* \(epochs: teacher .*distil"):
        fit_epochs(BOSS, Measured({"teacher": 60, "distil": 10}, overhead=10), 9 * HOUR, 600)
    ramped = override(BOSS, ['distill=[{"loss": "kd", "ramp": "p^4"}]'])
    assert fit_epochs(ramped, Measured({"distil": 40}, 300), 9 * HOUR, 390).train.epochs == 2
    with pytest.raises(KitError, match=r"hold no more than 1 of distillation's epochs, too few for this recipe: .*ramps"):
        fit_epochs(ramped, Measured({"distil": 40}, 300), 9 * HOUR, 350)
