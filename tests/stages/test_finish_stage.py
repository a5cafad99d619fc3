import copy
import json
import shutil

import pytest
import torch

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.files import sha256_of
from kit.models.students import build_student
from kit.session import open_session
from kit.stages.finish import best_packed, checkpoint_of, quantize, submit
from kit.stages.photos import read_photos
from kit.train.budget import Budget


def test_of_students_that_know_as_much_once_they_are_packed_the_last_is_taken(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student = build_student(session.config.student.name, (), 6).eval()
    students = {"training": student, "qat": copy.deepcopy(student)}
    assert best_packed(session, material, students)[0] == "qat"
    assert session.record["stages"]["quantize"]["chosen"] == "qat"


@pytest.mark.parametrize("feed", ["cache", "decode"])
def test_logits_are_adjusted_by_the_photos_that_were_trained_on(drawn, tmp_path, log, feed):
    """And not by those that don't decode."""
    data = shutil.copytree(drawn, tmp_path / "photos")
    for number in range(15):
        (data / "training" / f"0_{number}.jpg").write_bytes(b"cut")
    config = override(recipe("sample").tiny(), ["data.skip_bad=true", f"data.feed={feed}", "pack.calibration=0"])
    session = open_session(config, tmp_path, Budget(None), log)
    material = read_photos(session, data, tmp_path / "cache")
    quantize(session, material, {"training": build_student("record", (), 6).eval()})
    assert session.record["stages"]["quantize"]["per_class"] == [5, 20, 20, 20, 20, 20]


def test_a_hand_in_that_fails_leaves_the_one_before_with_its_history(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material, student = read_photos(session, drawn, tmp_path / "cache"), build_student("record", (), 6).eval()
    session.record["teacher"] = "none"
    submit(session, material, quantize(session, material, {"training": student}), "done", None)
    torch.nn.init.constant_(student.fc.bias, torch.nan)
    with pytest.raises(KitError, match="holds NaN"):
        quantize(session, material, {"training": student})
    made = json.loads((tmp_path / "provenance.json").read_text())
    assert made["student_sha256"] == sha256_of(tmp_path / "student.kit")


def test_the_checkpoint_that_a_submission_names_is_the_one_that_was_packed(tmp_path, log):
    """A stage that has begun leaves a file before it has trained anything."""
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    distilled = session.checkpoints("distil").finish(9, {"step": 9}).name
    pruned = session.checkpoints("prune").finish(0, {"step": 0}).name
    assert checkpoint_of(session, "training", None) == pruned
    tuned = session.checkpoints("finetune").finish(4, {"step": 4}).name
    on_grid = session.checkpoints("qat").save(0, {"step": 0}).name
    assert checkpoint_of(session, "training", distilled) == distilled
    assert checkpoint_of(session, "training", None) == tuned
    assert checkpoint_of(session, "lowrank", tuned) == tuned
    assert checkpoint_of(session, "qat", None) == on_grid


def test_a_ledger_that_can_not_be_read_costs_a_run_nothing_but_its_line(drawn, tmp_path, log, capsys):
    session = open_session(override(recipe("sample").tiny(), ["competition=60000params", "trial=null"]), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "ledger.csv").write_text("submission;date\n")
    session.record["teacher"] = "none"
    packed = quantize(session, material, {"training": build_student("record", (), 6).eval()})
    submit(session, material, packed, "done", tmp_path / "submissions")
    assert "ledger.csv is no ledger" in capsys.readouterr().out
    assert (tmp_path / "provenance.json").is_file()
