"""A kernel's session, and the folders that are pushed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.remote.kernel import on_cards, session, session_seconds, together
from kit.remote.metadata import read_metadata

KERNELS = sorted(path.parent for path in (Path(__file__).parents[2] / "kernels").glob("*/main.py"))


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """A folder shaped like Kaggle's, with a drawn data set among the inputs."""
    monkeypatch.setenv("KIT_KAGGLE", str(tmp_path))
    for name in ("input", "working"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_refusal_ends_the_script_with_one_paragraph(kaggle):
    with pytest.raises(SystemExit, match="error: No data set below"):
        session(recipe("sample"))


@pytest.mark.parametrize(
    ("limit", "budget", "seconds"),
    [(None, "8h30m", 30_600), ("43200", "8h30m", 30_600), ("14400", "8h30m", 12_600), ("1200", "8h30m", 900), ("14400", "20s", 20)],
)
def test_a_budget_ends_before_the_limit_that_the_push_gave(monkeypatch, limit, budget, seconds):
    if limit:
        monkeypatch.setenv("KIT_SESSION_LIMIT", limit)
    assert session_seconds(budget) == seconds


@pytest.mark.slow
def test_two_cards_share_a_session_and_a_refusal_is_said_once(kaggle, drawn, capfd):
    """Two processes on the CPU: what a session does where Kaggle gives two T4."""
    config = override(recipe("sample").tiny(), ["teacher.train.epochs=8", "train.epochs=1"])
    before = signal.getsignal(signal.SIGINT)
    record = on_cards(config, "1h", 0, drawn, 2)
    assert signal.getsignal(signal.SIGINT) is before
    assert record["state"] == "done"
    assert (kaggle / "working" / "submission.csv").is_file()
    with pytest.raises(KitError, match="2 processes ended with exit codes 1, 1"):
        on_cards(config, "1h", 10**6, drawn, 2)
    assert capfd.readouterr().err.count("was to be found there") == 1


@pytest.mark.slow
def test_a_signal_ends_two_cards_in_order(kaggle, drawn):
    """With a hand-in of what there is, and not as a failure."""
    config = override(recipe("sample").tiny(), ["train.epochs=10000", "train.save_seconds=0"])
    log = kaggle / "working" / "log.txt"

    def stop():
        while not (log.is_file() and "distil 2/" in log.read_text(encoding="utf-8")):
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert on_cards(config, "1h", 0, drawn, 2)["state"] == "suspended"
    assert (kaggle / "working" / "submission.csv").is_file()


def test_when_one_of_several_processes_fails_the_others_are_not_waited_for():
    code = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(600)"
    assert together([sys.executable, "-c", code], 2, grace=0.5) == [-signal.SIGKILL, 7]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_head_is_short_enough_to_read(kernel):
    lines = (kernel / "main.py").read_text().splitlines()
    assert len(lines) <= 40
    assert any(line.startswith('if __name__ == "__main__":') for line in lines)
    assert any("session(" in line or "session_seconds(" in line for line in lines)  # whose budget ends before the push's limit


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_metadata_may_be_pushed_and_leaves_nothing_to_a_default(kernel):
    metadata = read_metadata(kernel, "someone")
    assert (metadata["is_private"], metadata["enable_internet"]) == (True, False)
