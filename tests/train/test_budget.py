import signal
import time

import pytest

from kit.errors import KitError, Suspended
from kit.train.budget import SLACK, Budget


def test_the_clock_starts_with_the_process():
    """Imports alone take seconds of a session."""
    assert Budget(60).elapsed() > 0.3


def test_a_session_may_have_begun_before_its_process(monkeypatch):
    """A bundle's first line or a job's script says so; the earliest of all claims counts."""
    process = Budget(60).started
    monkeypatch.setenv("KIT_SESSION_STARTED", str(process - 100))
    assert Budget(60).started == pytest.approx(process - 100)
    monkeypatch.setenv("KIT_SESSION_STARTED", str(process + 100))
    assert Budget(60).started == pytest.approx(process, abs=0.1)
    monkeypatch.setenv("KIT_SESSION_STARTED", "0")
    assert Budget(60).started == pytest.approx(process, abs=0.1)
    monkeypatch.setenv("KIT_SESSION_STARTED", "this morning")
    with pytest.raises(KitError, match=r"'this morning' is no time.*date"):
        Budget(60)


@pytest.mark.parametrize("off", [-7200, 7200])
def test_a_clock_that_is_set_in_mid_session_changes_nothing(monkeypatch, off):
    budget, wrong = Budget(60), time.time() + off
    before = budget.elapsed()
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert before <= budget.elapsed() < before + 1
    assert Budget(60).started == pytest.approx(budget.started, abs=0.1)


def test_work_is_begun_only_while_it_and_what_follows_fit():
    budget = Budget(100, started=0, clock=lambda: 60)
    assert budget.fits("step")
    assert not Budget(100, started=0, clock=lambda: 99).fits("step")  # to leave in order takes a moment
    budget.longest = {"step": 1.0, "hand in": 40.0}
    assert budget.fits("step")
    assert not budget.fits("step", "hand in")
    assert not budget.enough_for("hand in")
    with pytest.raises(Suspended, match="100 s leaves 40 s: stopped before step 7"):
        budget.insist("step 7", "step", "hand in")


def test_the_longest_time_is_what_the_next_is_expected_to_take():
    budget = Budget(None)
    for pause in (0.02, 0.001):
        with budget.timed("step"):
            time.sleep(pause)
    assert budget.longest["step"] >= 0.02
    assert budget.fits("step")
    budget.longest["save"] = 9.0  # an earlier session's, on another disk maybe
    budget.count("save", 1.0)
    assert budget.longest["save"] == 1.0


def test_a_signal_leaves_no_room_for_anything():
    budget = Budget(None)
    budget.stop = "SIGTERM came"
    with pytest.raises(Suspended, match="SIGTERM came"):
        budget.insist("step 3")


def test_a_second_sigterm_still_asks_and_a_second_ctrl_c_ends_at_once():
    """A system that ends a session may send several."""
    budget, before = Budget(None), signal.getsignal(signal.SIGINT)
    with budget.catching_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert budget.stop == "SIGTERM came"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("seconds", "kept"), [(50, 1), (500, 10), (5_000, 20), (None, 0)])
def test_the_page_is_kept_a_fiftieth_of_a_session_and_never_more_than_20_seconds(seconds, kept):
    budget = Budget(seconds)
    before = budget.reserve("hand in")
    budget.longest["report"] = 30
    assert budget.reserve("hand in") == before + SLACK * kept
