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
    config = override(recipe("simple").tiny(), ["competition=any", "train.epochs=1"])  # a teacher's 45 MB would pass between them
    before = signal.getsignal(signal.SIGINT)
    record = on_cards(config, "1h", 0, drawn, 2)
    assert signal.getsignal(signal.SIGINT) is before
    assert record["state"] == "done"
    assert (kaggle / "working" / "submission.csv").is_file()
    with pytest.raises(KitError, match="2 processes ended with exit codes 1, 1") as refusal:
        on_cards(config, "1h", 10**6, drawn, 2)
    assert str(refusal.value).count("was to be found there") == 1
    assert "was to be found there" not in capfd.readouterr().err


def test_what_the_second_of_two_processes_says_is_not_lost(kaggle, monkeypatch, tmp_path):
    """It alone may run out of memory, and the first is then ended without a word."""
    (tmp_path / "sitecustomize.py").write_text("import os, time\nif os.environ.get('RANK') == '0': time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    monkeypatch.setattr("kit.remote.kernel.GRACE", 0)
    with pytest.raises(KitError, match=r"exit codes -9, 1\. '1 parsec' is no duration"):
        on_cards(recipe("sample"), "1 parsec", 0, tmp_path, 2)


@pytest.mark.slow
def test_a_signal_ends_two_cards_in_order(kaggle, drawn):
    """With a hand-in of what there is, and not as a failure."""
    config = override(recipe("simple").tiny(), ["competition=any", "train.epochs=10000", "train.save_seconds=0"])
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
