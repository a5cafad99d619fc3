"""One small run for all tests of its page: class folders with names that are not to be trusted, a session that is stopped and one that
goes on to the end."""

import shutil
from pathlib import Path
from threading import Thread
from time import sleep
from typing import NamedTuple

import pytest

from kit.config.recipes import recipe
from kit.config.schema import override
from kit.pipeline import run
from kit.train.budget import Budget

NAMES = ("<script>x", "a&b", "c'd", "disc", "e f", "{{ g }}")


class Runs(NamedTuple):
    suspended: Path
    done: Path


def as_folders(drawn: Path, place: Path) -> Path:
    for split in ("training", "validation"):
        for photo in (drawn / split).iterdir():
            folder = place / split / NAMES[int(photo.name[0])]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder)
    shutil.copytree(drawn / "evaluation", place / "evaluation")
    return place


def stop_when_it_learns(budget: Budget, out: Path) -> None:
    """As a signal would, when the student's first epoch is over."""
    while not (out / "metrics.jsonl").is_file() or "distil" not in (out / "metrics.jsonl").read_text():
        sleep(0.02)
    budget.stop = "SIGTERM came"


@pytest.fixture(scope="session")
def runs(drawn, tmp_path_factory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    data, out = as_folders(drawn, place / "photos"), place / "done"
    config, budget = override(recipe("sample").tiny(), ["train.epochs=4"]), Budget(None)
    Thread(target=stop_when_it_learns, args=(budget, out), daemon=True).start()
    run(config, data, out, cache=place / "cache", budget=budget)
    shutil.copytree(out, place / "suspended")
    run(config, data, out, cache=place / "cache", budget=Budget(None))
    return Runs(place / "suspended", out)
