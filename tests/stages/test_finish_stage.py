import copy
import json
import math
import shutil

import pytest
import torch

from kit import predict
from kit.answers import read_answers
from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.files import sha256_of
from kit.models.look import hooked
from kit.models.students import build_student
from kit.names import ANSWERS
from kit.session import open_session
from kit.stages.finish import best_packed, checkpoint_of, quantize, submit
from kit.stages.photos import read_photos
from kit.submission import read_csv
from kit.train.budget import Budget


def test_of_students_that_know_as_much_once_they_are_packed_the_last_is_taken(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student = build_student(session.config.student.name, (), 6).eval()
    students = {"training": student, "qat": copy.deepcopy(student)}
    assert best_packed(session, material, students)[0] == "qat"
    assert session.record["stages"].pop("quantize")["chosen"] == "qat"
    session.config = override(session.config, ["train.final_fit=true"])
    assert best_packed(session, material, students)[0] == "qat"
    assert "quantize" not in session.record["stages"]  # by nothing: the validation photos were trained on


def test_a_student_over_the_limit_is_not_packed_where_another_keeps_it(drawn, tmp_path, log):
    session = open_session(override(recipe("sample").tiny(), ["limit=30000params", "pack.calibration=0"]), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    narrow, wide = (build_student("record", widths, 6).eval() for widths in ((8,) * 7, ()))
    for student in (narrow, wide):
        torch.nn.init.constant_(student.fc.weight, 0)  # they know as much
    assert best_packed(session, material, {"training": narrow, "lowrank": wide})[0] == "training"


@pytest.mark.parametrize("feed", ["cache", "decode"])
def test_logits_are_adjusted_by_the_photos_that_were_trained_on(drawn, tmp_path, log, feed):
    """And not by those that don't decode."""
    data = shutil.copytree(drawn, tmp_path / "photos")
    for number in range(15):
        (data / "training" / f"0_{number}.jpg").write_bytes(b"cut")
    config = override(
        recipe("sample").tiny(), ["data.skip_bad=true", f"data.feed={feed}", "pack.calibration=0", "predict.logit_adjustment=1"]
    )
    session = open_session(config, tmp_path, Budget(None), log)
    material, student = read_photos(session, data, tmp_path / "cache"), build_student("record", (), 6).eval()
    torch.nn.init.zeros_(student.fc.bias)
    few, *others = quantize(session, material, {"training": student}).student.fc.bias.tolist()
    assert [other - few for other in others] == pytest.approx([-math.log(4)] * 5, rel=1e-2)
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
    torch.nn.init.zeros_(student.fc.bias)
    quantize(session, material, {"training": student})
    assert not (tmp_path / "provenance.json").exists()  # a kill before the new CSV leaves no witness of the old one's student


def test_a_student_is_measured_and_hands_in_by_the_views_that_the_recipe_names(drawn, tmp_path, log):
    config, seen = override(recipe("sample").tiny(), ["predict.flip=true", "pack.calibration=0"]), []
    session = open_session(config, tmp_path, Budget(None), log)
    material, session.record["teacher"] = read_photos(session, drawn, tmp_path / "cache"), "none"
    packed = quantize(session, material, {"training": build_student("record", (), 6).eval()})
    wanted = predict.logits(packed.student, material.validation, config.data, views=config.predict)
    assert (read_answers(tmp_path / ANSWERS).logits["quantize"] == wanted.numpy()).all()
    with hooked([packed.student.register_forward_hook(lambda module, given, answer: seen.append(len(given[0])))]):
        submit(session, material, packed, "done", None)
    assert sum(seen) == 2 * len(material.evaluation)


def test_a_submission_of_a_student_over_the_limit_says_so(drawn, tmp_path, log, capsys):
    session = open_session(override(recipe("sample").tiny(), ["limit=50000params", "pack.calibration=0"]), tmp_path, Budget(None), log)
    material, session.record["teacher"] = read_photos(session, drawn, tmp_path / "cache"), "none"
    submit(session, material, quantize(session, material, {"training": build_student("record", (), 6).eval()}), "done", None)
    assert "can't be submitted: 58,846 parameters are over" in capsys.readouterr().out
    assert "over" in " ".join(json.loads((tmp_path / "provenance.json").read_text())["problems"])


def test_a_photo_that_does_not_decode_is_guessed_to_be_of_the_most_frequent_class(drawn, tmp_path, log):
    data = shutil.copytree(drawn, tmp_path / "photos")
    for label in "01245":
        (data / "training" / f"{label}_0.jpg").unlink()
    (data / "evaluation" / "0005.jpg").write_bytes(b"cut")
    session = open_session(override(recipe("sample").tiny(), ["pack.calibration=0"]), tmp_path, Budget(None), log)
    material, session.record["teacher"] = read_photos(session, data, tmp_path / "cache"), "none"
    submit(session, material, quantize(session, material, {"training": build_student("record", (), 6).eval()}), "done", None)
    assert read_csv(tmp_path / "submission.csv")["Id"][5] == "0005"
    assert read_csv(tmp_path / "submission.csv")["Category"][5] == "3"


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
