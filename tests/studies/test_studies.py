"""Studies: skipped, gone on with, failed and passed; and tables that hold what the journal holds."""

import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from threading import Thread

import pytest
from test_plan import stop_when_photos_are_read
from typer.testing import CliRunner

from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.config.recipes import sample
from kit.console import Log
from kit.errors import KitError
from kit.files import locked
from kit.models.students import STUDENTS
from kit.stages.refusals import check_recipe
from kit.studies.catalogue import STUDIES, choose, find_study
from kit.studies.document import markdown, write
from kit.studies.hw7_pipeline import slimmed
from kit.studies.journal import append, read
from kit.studies.runner import Place, configured, digest_of, job_of, jobs_to_do, run_job, run_study, sources_of
from kit.studies.study import Arm, Study, replaced
from kit.studies.tables import rows
from kit.train.budget import Budget

LONGER = {"teacher.train.epochs": 8}  # of tiny: enough for a teacher that is no guesser


def small() -> Study:
    bare = replaced(sample(), {"prune": None, "data.image_size": 32})
    arms = (Arm("plain", bare, "as it is"), Arm("wide", replaced(bare, {"distill": [{"loss": "ce"}]}), "labels alone"))
    lengthen = lambda config: replaced(config, {"train.epochs": 2})  # noqa: E731
    return Study("small", "Does it run?", arms, "plain", lengthen, "two epochs")


def entry(arm, seed, accuracy=None, **more):
    made = {"study": "small", "arm": arm, "seed": seed, "digest": "d", "setting": "reduced", "state": "failed", "error": "no photos"}
    done = {
        "state": "done",
        "validation_accuracy": accuracy,
        "parameters": 10,
        "bytes": 20,
        "seconds": 60.0,
        "device": "CPU",
        "commit": "c",
    }
    return made | (done if accuracy is not None else {}) | more


def run(study, tmp_path, drawn, seeds, said, seconds=None, **more):
    place = Place(tmp_path / "journal.jsonl", tmp_path / "arms")
    budget = Budget(seconds, started=time.time())
    how = {"cache": tmp_path / "cache", "budget": budget, "seeds": seeds, "setting": "tiny", "say": said.append, "teachers": ()}
    return run_study(study, place, drawn, **how, **more)


@pytest.mark.slow
def test_a_study_runs_what_is_missing_and_passes_an_arm_that_fails(tmp_path, drawn):
    """The second arm's hint names a stage that does not exist."""
    study, said = small(), []
    hint = {"loss": "hint", "student": "blocks.99", "teacher": "layer1"}
    broken = replace(study.arms[1], config=replaced(study.arms[1].config, {"distill": [{"loss": "ce"}, hint]}))
    assert run(replace(study, arms=(broken, study.arms[0])), tmp_path, drawn, [1], said)
    states = [(line["arm"], line["state"]) for line in read(tmp_path / "journal.jsonl", "small", print)]
    assert states == [("wide", "failed"), ("plain", "done")]
    assert "blocks.99" in said[1]
    assert said[0] == "1 of 2: wide, seed 1"
    assert re.fullmatch(r"2 of 2: plain, seed 1; about \d+ s to go", said[2])
    assert run(study, tmp_path, drawn, [1], said)  # mended, and the other is not run again
    states = [(line["arm"], line["state"]) for line in read(tmp_path / "journal.jsonl", "small", print)]
    assert states[2:] == [("wide", "done")]


def test_a_study_without_time_says_what_is_next_and_begins_nothing(tmp_path, drawn):
    said = []
    assert not run(small(), tmp_path, drawn, [1], said, seconds=5)
    assert said == ["the budget is over: plain with seed 1 is next; the same command goes on from here"]
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_a_study_that_a_signal_ends_lets_no_script_go_on(tmp_path, drawn):
    Thread(target=stop_when_photos_are_read, args=(tmp_path / "cache",), daemon=True).start()
    words = f"study hw13 --tiny --arm simple --seeds 1 --data {drawn} --out {tmp_path} --cache {tmp_path / 'cache'}"
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "is half done" in done.output) == (75, True)


def test_an_arm_under_another_config_is_not_mixed_in(tmp_path, drawn):
    """Another machine's lines are appended from another commit: of a seed that is there, and of one that is not asked for now."""
    journal, study = tmp_path / "journal.jsonl", small()
    append(journal, entry("plain", 1, 0.5, setting="tiny", digest=digest_of(study, study.arms[0], 1, "tiny")))
    own = journal.read_bytes()
    for seed in (1, 2):
        journal.write_bytes(own)
        append(journal, entry("plain", seed, 0.6, setting="tiny"))
        with pytest.raises(KitError, match=f"'plain' with seed {seed} under another config"):
            run(study, tmp_path, drawn, [1], [])


def test_arms_of_other_photos_are_not_mixed_in(tmp_path, drawn):
    moved, sources = shutil.copytree(drawn, tmp_path / "moved"), sources_of(small(), drawn, ())
    assert sources_of(small(), moved, ()) == sources
    append(tmp_path / "journal.jsonl", entry("plain", 1, 0.5, setting="tiny", source=sources[0]))
    (moved / "training" / "0_0.jpg").unlink()
    with pytest.raises(KitError, match=r"'plain' of other photos or teachers.*another --out \(and --docs"):
        run(small(), tmp_path, moved, [2], [])


def test_a_teacher_beside_the_photos_is_told_from_another_and_lines_from_before_it_was_are_taken(tmp_path, drawn):
    moved, journal, said = shutil.copytree(drawn, tmp_path / "photos" / "moved"), tmp_path / "journal.jsonl", []
    teacher = moved.parent / "resnet18_teacher.ckpt"
    teacher.write_bytes(b"one")
    now, before = sources_of(small(), moved, ())
    assert before == sources_of(small(), drawn, ())[0]  # without a teacher
    assert now == sources_of(small(), moved, (teacher,))[0]
    for source in (before, now):
        append(journal, entry("plain", 1, 0.5, setting="tiny", source=source, digest=digest_of(small(), small().arms[0], 1, "tiny")))
        assert not run(small(), tmp_path, moved, [1], said, seconds=5)
    assert "the budget is over: wide with seed 1 is next" in said[-1]
    teacher.write_bytes(b"other")
    with pytest.raises(KitError, match=r"'plain' of other photos or teachers"):
        run(small(), tmp_path, moved, [1], [])


@pytest.mark.parametrize(("signals", "stop"), [([], None), ([signal.SIGTERM], "SIGTERM came")])
def test_a_lagging_arm_ends_alone_and_a_signal_beside_it_ends_the_study(tmp_path, drawn, signals, stop):
    study, budget = small(), Budget(None, started=time.time())

    def lags(stage, history):
        for number in signals:
            os.kill(os.getpid(), number)
        return "it lags"

    job = job_of(study, study.arms[1], 1, "tiny", Place(tmp_path / "journal.jsonl", tmp_path / "arms"), ())
    found = run_job(job, drawn, tmp_path / "cache", budget, lags)
    assert (found["state"], found["error"], budget.stop) == ("stopped", "it lags", stop)


def test_what_was_stopped_goes_on_where_nothing_is_halved(tmp_path):
    study, place = small(), Place(tmp_path / "journal.jsonl", tmp_path / "arms")
    for arm, state in (("plain", "done"), ("wide", "stopped")):
        append(place.journal, entry(arm, 1, 0.5, setting="tiny", state=state, error="it lags", curve=[0.5]))
    left = lambda halving: [job.arm for job in jobs_to_do(study, place, [1], "tiny", print, (), halving)]  # noqa: E731
    assert (left(True), left(False)) == ([], ["wide"])


def test_halving_without_optuna_is_refused_before_the_first_arm(tmp_path, drawn, monkeypatch):
    """The reference comes first and is never halved."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(KitError, match="pip install optuna"):
        run(small(), tmp_path, drawn, [1], [], halving=True)
    assert not (tmp_path / "arms").exists()


@pytest.mark.parametrize("held", ["arms", "journal.jsonl"])
def test_two_studies_with_one_folder_or_one_journal_do_not_run_the_same_arms(tmp_path, drawn, held):
    (tmp_path / "arms").mkdir()
    (tmp_path / "journal.jsonl").touch()
    with locked(tmp_path / held), pytest.raises(KitError, match=r"Another kit study is at work in .*arms or with .*journal\.jsonl"):
        run(small(), tmp_path, drawn, [1], [])


def test_a_journal_that_can_not_be_written_is_told_before_an_arm_is_run(tmp_path, drawn):
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(KitError, match=r"journal\.jsonl can't be written \(Is a directory\)"):
        run(small(), tmp_path, drawn, [1], [])
    assert not list((tmp_path / "arms").iterdir())


@pytest.mark.parametrize("found", ['{"study": "sma', "accuracy", '"seed"', '"done"', "[]"])
def test_half_a_line_or_a_damaged_one_is_passed_over_and_the_next_is_whole(tmp_path, found):
    file, said = tmp_path / "journal.jsonl", []
    append(file, entry("plain", 1, 0.5))
    whole = json.dumps(entry("plain", 3, 0.7))
    file.write_text(file.read_text() + (whole.replace(found, found.upper()) if found in whole else found))
    append(file, entry("plain", 2, 0.6))
    assert [line["seed"] for line in read(file, "small", said.append)] == [1, 2]
    assert said == [f"{file}, line 2: half written or damaged, passed over"]
    with pytest.raises(KitError, match=r"is the journal of the study 'small', not of 'other'\. Choose another --out \(and --docs"):
        read(file, "other", print)


def test_the_table_has_mean_spread_and_what_the_seeds_can_not_tell_apart():
    far = [entry("wide", seed, 0.7 + seed / 1000) for seed in range(3)]
    near = [entry("plain", seed, 0.5 + seed / 1000) for seed in range(3)]
    assert "| wide | labels alone | 10 | 20 | 0.7010 ± 0.0010 | 0.7000 0.7010 0.7020 | +20.00 | 1.0 |" in markdown(
        small(), near + far, "reduced"
    )
    noisy = [entry("wide", seed, 0.5 + seed / 10) for seed in range(3)]
    assert "+9.90 (unseparated)" in markdown(small(), near + noisy, "reduced")
    assert "+20.00 (one seed)" in markdown(small(), near[:1] + far[:1], "reduced")
    assert "| seed 0 failed: no photos |" in markdown(small(), [*near, entry("wide", 0)], "reduced")
    left_out = [entry("wide", 4), entry("wide", 3, 0.3, state="stopped", curve=[0.2], error="it lags")]
    says = "| 0.7010 ± 0.0010 of the seeds that went to the end; seed 3 stopped at 0.2000: it lags; seed 4 failed: no photos |"
    assert says in markdown(small(), [*near, *far, *left_out], "reduced")
    assert markdown(small(), [*near, *far, entry("wide", 0)], "reduced") == markdown(small(), near + far, "reduced")  # what is done stays


def test_tables_and_figures_come_from_the_journal_alone(tmp_path):
    entries = [entry(arm, seed, 0.5 + seed / 100) for arm in ("plain", "wide") for seed in range(2)]
    files = write(small(), entries, "reduced", tmp_path / "a")
    assert {file.suffix for file in files} == {".md", ".tex", ".csv", ".svg", ".png"}
    assert "\\toprule" in (tmp_path / "a" / "small.tex").read_text()
    assert rows(small(), entries, "full") == []
    assert write(small(), entries, "full", tmp_path / "c") == []


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_is_a_config_in_every_setting(name):
    study = find_study(name)
    names = {arm.name for arm in study.arms}
    assert len(names) == len(study.arms)
    assert {study.reference, *(arm.against for arm in study.arms if arm.against)} <= names
    for setting in ("tiny", "reduced", "full"):
        digests = {(digest_of(study, arm, 1, setting), arm.config.data.workers) for arm in study.arms}
        same = setting != "tiny" and len(digests) < len(study.arms)  # tiny batches are all of one size
        assert not same, f"two arms of {name} are the same run when {setting}"


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_would_begin(name, tmp_path):
    """What a run refuses at its start is better refused here than in the night in which the study runs."""
    study, seen = find_study(name), set()
    for arm in study.arms:
        config = configured(study, arm, 1, "reduced")
        what = config.model_dump_json(include={"student", "distill", "prune", "limit", "competition", "pack"})
        if what not in seen:
            check_recipe(config, Log(tmp_path / "log.txt"))
            seen.add(what)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(KitError, match=r"no study 'hw31'\. Nearest: hw13"):
        find_study("hw31")
    with pytest.raises(KitError, match=r"no arm 'bos'\. Nearest: boss"):
        choose(find_study("hw13"), ["bos"])
    assert json.dumps([arm.name for arm in choose(find_study("hw13"), ["boss"]).arms]) == '["boss"]'


@pytest.mark.parametrize("name", STUDIES)
def test_an_arm_comes_after_those_that_it_needs(name):
    met = set()
    for arm in find_study(name).arms:
        assert met >= set(arm.needs)
        met.add(arm.name)


def test_an_arm_is_chosen_with_all_that_it_needs_in_their_order():
    chosen = choose(find_study("cifar-slim"), ["sparse-dist-then-dist-20"])
    assert [arm.name for arm in chosen.arms] == ["teacher", "sparse-dist", "sparse-dist-then-dist-20"]


def test_the_course_s_slimming_leaves_the_published_counts():
    left = [round(slimmed(0.95, times) * STUDENTS["hw7"].parameters, 6) for times in range(1, 6)]
    assert left == [236_066, 217_850, 200_354, 185_091, 171_606]


def test_the_first_seed_of_all_arms_comes_first(tmp_path):
    """Where a budget ends, every arm has been looked at as often as any other."""
    jobs = jobs_to_do(small(), Place(tmp_path / "journal.jsonl", tmp_path / "arms"), [1, 2], "tiny", print, ())
    assert [(job.arm, job.seed) for job in jobs] == [("plain", 1), ("wide", 1), ("plain", 2), ("wide", 2)]


def test_a_line_of_the_journal_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    sizes, flush = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size) or flush(descriptor))
    append(tmp_path / "journal.jsonl", entry("plain", 1, 0.5))
    assert sizes == [(tmp_path / "journal.jsonl").stat().st_size]
