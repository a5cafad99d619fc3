"""Shared places: photos that the kit draws once a session, and the real ones where they are at hand."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from kit.console import Log
from kit.data.draw import draw_dataset

if "PYTEST_XDIST_WORKER" in os.environ:  # of the processes that tests start coverage counts nothing: each would take three seconds more
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
# No test reaches another machine, whatever credentials its user has: all that would go out ends here.
os.environ |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
NAMES = ("<script>x", "a&b", "c'd", "disc", "e f", "{{ g }}")  # of class folders, to be escaped
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
REAL = Path(os.environ.get("KIT_PROVING_GROUND") or Path(__file__).parents[2] / "shared")


def pytest_sessionfinish() -> None:
    """A worker writes down which lines ran before it ends: torch's threads may abort it then, and what it had run was lost once."""
    if (coverage := sys.modules.get("coverage")) and (counting := coverage.Coverage.current()):
        counting.save()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A small drawn data set: 120 / 60 / 24 photos of 48 px in the HW13 layout. Copy it before changing it."""
    return draw_dataset(tmp_path_factory.mktemp("drawn"), seed=1, splits={"training": 120, "validation": 60, "evaluation": 24})


@pytest.fixture(scope="session")
def coloured(tmp_path_factory) -> Path:
    """Photos of one colour each: a network knows the six classes after a few steps."""
    folder, random = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for split, count in (("training", 96), ("validation", 30), ("evaluation", 12)):
        (folder / split).mkdir()
        for i in range(count):
            noisy = np.array(Image.new("RGB", (32, 32), COLOURS[i % 6]), np.int64) + random.integers(-60, 60, (32, 32, 3))
            name = f"{i:04d}.jpg" if split == "evaluation" else f"{i % 6}_{i // 6}.jpg"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / split / name)
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real photos and checkpoints that the figures in the documents come from."""
    if not (REAL / "food101-regrouped").is_dir():
        pytest.skip("the real photos are not on this machine (KIT_PROVING_GROUND names their folder)")
    return REAL


def left_running(belongs: Callable[[Path], bool], patience: float = 10) -> list[str]:
    """Processes that still run after the seconds that a worker may take to notice that its parent is gone.

    belongs: of a process's folder in /proc; one that ends meanwhile raises OSError.
    """
    deadline = time.monotonic() + patience
    while found := [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit() and safely(belongs, entry)]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return []


def safely(belongs: Callable[[Path], bool], entry: Path) -> bool:
    try:
        return belongs(entry)
    except OSError:
        return False


@pytest.fixture(scope="session")
def paced(tmp_path_factory) -> Callable[[float], float]:
    """Budgets for this machine, in seconds: as many times those of one on which the command needs four to begin as it needs here."""
    place, start = tmp_path_factory.mktemp("paced"), time.monotonic()
    words = ["run", "record", "--tiny", "--data", str(place), "--out", str(place / "out")]
    assert subprocess.run([sys.executable, "-m", "kit", *words], cwd=place, capture_output=True).returncode == 1  # no photos are there
    slower = max(1.0, (time.monotonic() - start) / 4)
    return lambda seconds: round(seconds * slower)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def command(monkeypatch, capsys) -> Callable[..., tuple[str, str]]:
    """What a command prints in a folder, and its errors. In this process: another one takes seconds to load torch."""
    from kit.cli.main import main

    def printed(place: Path, *words: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["kit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, error = capsys.readouterr()
        assert (end.value.code or 0) == code, out + error
        return out, error

    return printed


@pytest.fixture
def refused(command) -> Callable[..., str]:
    """The paragraph in which a command ends that fails in a folder."""

    def said(place: Path, *words: str) -> str:
        error = command(place, *words, code=1)[1]
        assert error.startswith("error: "), error
        return error

    return said


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


def stop_when_it_learns(budget: Any, out: Path) -> None:
    """As a signal would, when the student's first epoch is over."""
    while not (out / "metrics.jsonl").is_file() or "distil" not in (out / "metrics.jsonl").read_text():
        time.sleep(0.02)
    budget.stop = "SIGTERM came"


@pytest.fixture(scope="session")
def runs(drawn, tmp_path_factory) -> Runs:
    """One small run for all tests of its page: class folders with names that are not to be trusted, a session that is stopped and one
    that goes on to the end."""
    from kit.config.override import override
    from kit.config.recipes import recipe  # here: few tests need what a whole run imports
    from kit.pipeline import run
    from kit.train.budget import Budget

    place = tmp_path_factory.mktemp("runs")
    data, out = as_folders(drawn, place / "photos"), place / "done"
    config, budget = override(recipe("sample").tiny(), ["train.epochs=4"]), Budget(None)
    Thread(target=stop_when_it_learns, args=(budget, out), daemon=True).start()
    run(config, data, out, cache=place / "cache", budget=budget)
    shutil.copytree(out, place / "suspended")
    run(config, data, out, cache=place / "cache", budget=Budget(None))
    return Runs(place / "suspended", out)
