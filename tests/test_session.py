"""The account of a run, and who may write it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.session import alone, open_session, read_record, versions
from kit.stages.photos import read_photos
from kit.train.budget import Budget


@pytest.fixture
def session(tmp_path, log):
    session = open_session(recipe("record"), tmp_path, Budget(None), log)
    session.checkpoints("distil").save(10, {})
    return session


def again(tmp_path, log, config=None, **how):
    return open_session(config or recipe("record"), tmp_path, Budget(None), log, **how)


def test_a_second_run_in_a_folder_is_refused_and_names_the_first(tmp_path, log):
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom kit.config.recipes import recipe\nfrom kit.console import Log\n"
        "from kit.session import alone, open_session\nfrom kit.train.budget import Budget\nout = Path(sys.argv[1])\n"
        "with alone(out):\n"
        "    with open_session(recipe('record'), out, Budget(None), Log()).account():\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while "ready" not in first.stdout.readline():
        pass
    with pytest.raises(KitError, match=f"is in use by process {first.pid}, since .*Wait for it"), alone(tmp_path):
        pass
    first.kill()
    first.communicate()
    with alone(tmp_path):  # a killed one holds nothing
        pass


def test_what_killed_processes_were_writing_is_swept_and_nothing_of_those_that_run(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "tensorboard" / "distil").mkdir(parents=True)
    left = [
        f".student.kit.{gone}.tmp",
        f"checkpoints/.distil.pt.{gone}.tmp",
        f"tensorboard/distil/.events.{gone}.tmp",
        f".a.{os.getpid()}.tmp",
    ]
    kept = [f".report.html.{os.getppid()}.tmp", ".notes.tmp", f"photos.{gone}.tmp", "student.kit"]
    for name in left + kept:
        (tmp_path / name).touch()
    with alone(tmp_path):
        assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == set(kept)


def test_histories_of_stages_that_a_session_does_not_come_to_stay(session, tmp_path, log):
    first, second = {"epoch": 1, "step": 7, "loss": 1.0}, {"epoch": 2, "step": 14, "loss": 0.5}
    session.write_metrics("teacher", [first])
    session.write_metrics("distil", [first])
    later = again(tmp_path, log)
    later.write_metrics("distil", [first, second])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["epoch"]) for line in lines] == [("teacher", 1), ("distil", 1), ("distil", 2)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"recipe": "record"}', b"\xff\xfe"])
def test_a_damaged_account_is_put_aside_and_costs_nothing_but_its_lines(session, tmp_path, log, damage, capsys):
    (tmp_path / "run.json").write_bytes(damage)
    assert again(tmp_path, log).record["sessions"] == []
    assert "the account begins anew" in capsys.readouterr().out
    assert (tmp_path / "run.json.damaged").read_bytes() == damage
    assert session.checkpoints("distil").load() == {}


def test_a_flipped_digit_in_the_account_is_noticed(session, tmp_path, log):
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"recipe": "recorc"}))
    assert read_record(tmp_path, log) is None


def test_another_config_is_refused_by_the_checkpoints_even_without_the_account(session, tmp_path, log):
    (tmp_path / "run.json").unlink()
    with pytest.raises(KitError, match=r"train\.lr: 0\.02 → 0\.5"):
        again(tmp_path, log, override(recipe("record"), ["train.lr=0.5"]))


def test_what_changes_no_weight_may_change(session, tmp_path, log):
    harmless = ["data.workers=7", "train.save_seconds=5", "teacher.expected_accuracy=0.5"]
    assert again(tmp_path, log, override(recipe("record"), harmless)).begun_with == {}


def test_a_run_that_is_not_as_far_as_it_must_be_is_refused(session, tmp_path, log):
    assert again(tmp_path, log, least_step=10)
    with pytest.raises(KitError, match="at step 10, step 11 was to be found"):
        again(tmp_path, log, least_step=11)


def test_other_photos_or_another_teacher_are_refused(session, tmp_path, log):
    session.remember("photos", "abc", "the photos")
    session.checkpoints("distil").save(11, {})
    later = again(tmp_path, log)
    with pytest.raises(KitError, match=r"the photos are not those .* \(abc then, xyz now\)"):
        later.remember("photos", "xyz", "the photos")
    later.remember("teacher", "new", "the teacher")
    assert later.identity == {"teacher": "new"}


def test_what_a_session_measured_is_what_the_next_one_reckons_with(session, tmp_path, log):
    """What a hand-in, a pruning and a save take; a step's time is measured anew."""
    kept = {"hand in": 7.0, "prune": 3.0, "distil save": 0.5}
    with session.account():
        session.budget.longest |= kept | {"distil step": 2.0}
    assert again(tmp_path, log).budget.longest == kept
    session.record["choices"] |= {"device": "another"}
    session.write()
    assert again(tmp_path, log).budget.longest == {}


def ended(session, error, doing=lambda: None):
    """run.json after a session that an error ended."""

    def failing():
        with session.account(), session.stage("distil"):
            doing()
            raise error

    with pytest.raises(type(error)):
        failing()
    return read_record(session.out, session.log)


@pytest.mark.parametrize(("error", "how"), [(KitError("other photos"), "refused"), (KeyboardInterrupt(), "stopped")])
def test_a_session_that_did_nothing_leaves_the_account_as_it_was_but_for_its_line(session, tmp_path, log, error, how):
    with session.account(), session.stage("distil"):
        pass
    before = read_record(tmp_path, log)
    after = ended(again(tmp_path, log), error)
    assert [line["ended"] for line in after.pop("sessions")] == ["done", how]
    assert after == {name: value for name, value in before.items() if name != "sessions"}
    assert after["state"] == after["stages"]["distil"]["state"] == "done"


def test_a_session_that_fails_after_it_has_done_something_is_stopped(session, tmp_path, log):
    with session.account():
        pass
    later = again(tmp_path, log)
    assert ended(later, KitError("diverged"), lambda: later.checkpoints("distil").save(20, {}))["state"] == "stopped"


def test_a_refusal_after_a_kill_calls_the_run_stopped(session, tmp_path, log):
    assert session.record["state"] == "running"
    assert ended(again(tmp_path, log), KitError("other photos"))["state"] == "stopped"


def test_photos_under_other_names_are_refused_and_let_the_run_go_on_when_they_are_back(drawn, tmp_path, log):
    data, out = shutil.copytree(drawn, tmp_path / "photos"), tmp_path / "run"
    config = recipe("sample").tiny()
    first = again(out, log, config)
    read_photos(first, data, tmp_path / "cache")
    first.checkpoints("distil").save(1, {})
    (data / "evaluation" / "0000.jpg").rename(data / "evaluation" / "9999.jpg")
    with pytest.raises(KitError, match=r"^the names or bytes of the photos below .* begun with .*Bring those back to go on, or choose"):
        read_photos(again(out, log, config), data, tmp_path / "cache")
    (data / "evaluation" / "9999.jpg").rename(data / "evaluation" / "0000.jpg")
    read_photos(again(out, log, config), shutil.move(data, tmp_path / "elsewhere"), tmp_path / "cache")


def test_a_package_that_is_not_there_ends_no_session(monkeypatch):
    """Kaggle's image may drop one that most recipes do without."""
    monkeypatch.setattr("kit.session.VERSIONS", ("torch", "no-such-package"))
    assert versions().keys() == {"python", "torch"}
