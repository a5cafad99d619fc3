"""Arms that lag are stopped, by Optuna, and a study knows it from its journal alone."""

import time

import pytest

from kit.studies.journal import append, read
from kit.studies.runner import Place, digest_of, run_study
from kit.studies.tables import frame, rows
from kit.train.budget import Budget

pytest.importorskip("optuna", reason="kit study --halving needs optuna, which is optional")

from test_studies import entry, small

from kit.studies.halving import Halving

GOOD, BAD = [0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.61, 0.62, 0.63, 0.64], [0.1] * 10


def history(curve):
    return [{"epoch": i, "accuracy": accuracy} for i, accuracy in enumerate(curve, 1)]


def stopped_at(halving, curve):
    """The epoch after which an arm with this curve is stopped; None: it runs to its end."""
    watch = halving.watch()
    return next((i for i in range(1, len(curve) + 1) if watch("distil", history(curve[:i]))), None)


def test_the_laggard_is_stopped_after_a_fifth_of_the_plan_and_the_leader_is_not():
    halving = Halving(10, [{"curve": GOOD}, {"curve": [0.9 * x for x in GOOD]}])
    assert stopped_at(halving, BAD) == 2
    assert stopped_at(halving, [x + 0.01 for x in GOOD]) is None
    assert stopped_at(halving, [0.4, 0.5, *BAD[2:]]) == 6


def test_an_arm_that_goes_on_after_a_break_is_judged_by_all_its_epochs():
    assert Halving(10, [{"curve": GOOD}]).watch()("distil", history(BAD[:5]))
    assert Halving(10, [{"curve": GOOD}]).watch()("teacher", history(BAD)) is None


def test_a_study_goes_on_without_the_arm_that_lags(tmp_path, drawn):
    study, said, place = small(), [], Place(tmp_path / "journal.jsonl", tmp_path / "arms")
    for seed in (1, 2):
        digest = digest_of(study, study.arms[0], seed, "tiny")
        append(place.journal, entry("plain", seed, 0.95, setting="tiny", digest=digest, curve=[0.9, 0.95]))
    how = {"cache": tmp_path / "cache", "setting": "tiny", "say": said.append, "teachers": (), "halving": True}
    for seeds in ([1], [1, 2]):
        assert run_study(study, place, drawn, budget=Budget(None, started=time.time()), seeds=seeds, **how)
    made = read(place.journal, "small", print)
    assert [(e["arm"], e["seed"], e["state"], len(e["curve"])) for e in made[2:]] == [("wide", 1, "stopped", 1)]
    table = frame(study, rows(study, made, "tiny")).set_index("arm")
    assert "it lags behind the other arms after epoch 1" in table.loc["wide", "accuracy"]
    assert run_study(study, place, drawn, budget=Budget(None, started=time.time()), seeds=[1], **how | {"halving": False})
    assert [(e["arm"], e["seed"], e["state"]) for e in read(place.journal, "small", print)[3:]] == [("wide", 1, "done")]
    assert "going on from step" in next(place.runs.glob("wide-1-*/log.txt")).read_text()
