import time

from kit.config.recipes import recipe
from kit.session import open_session
from kit.stages.history import describe, summary
from kit.stages.photos import read_photos
from kit.train.budget import Budget


def test_a_session_that_ends_in_the_teachers_first_epoch_counts_what_is_left_of_the_teacher(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(110, started=0, clock=lambda: 60), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    assert summary(session, material)["epochs"] == {"distil": 0, "finetune": 0}  # one that was given may teach
    session.budget.count("teacher step", 2.0)
    line = summary(session, material)
    assert (line["epochs_left"], line["seconds_left"]) == (2 + 2 + 1, 2 * (2 + 2 + 1) * 7)  # 120 photos are seven steps of 16
    assert line["sessions_needed"] == 2  # each would begin with 58 seconds that train nothing, as this one did
    session.checkpoints("distil").finish(7, {})  # its patience was over
    assert summary(session, material)["epochs_left"] == 2 + 1


def test_the_best_accuracy_is_that_of_the_weights_that_are_deployed(drawn, tmp_path, log):
    """An average of the weights is measured after the last epoch."""
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(600, started=time.time()), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    session.histories["distil"] = [{"loss": 0.5, "accuracy": 0.2}, {"loss": 0.4, "accuracy": 0.3}]
    assert summary(session, material)["best_accuracy"] == 0.3
    session.note("distil", accuracy=0.35)
    assert summary(session, material)["best_accuracy"] == 0.35


def test_looking_at_a_teacher_that_the_run_has_trained_is_told_beside_its_training(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(600, started=time.time()), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    for kind in ("teacher step", "teacher", "distil step", "compile"):
        session.budget.count(kind, 2.0)
    spent = summary(session, material)["seconds_by_kind"]
    assert (spent["step"], spent["teacher"], spent["compile"]) == (4.0, 2.0, 2.0)
    assert spent.keys() == {"step", "evaluate", "save", "wait", "photos", "teacher", "compile"}


def test_what_a_final_fits_teacher_knows_of_photos_that_it_has_learnt_from_is_no_best_accuracy(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(600, started=time.time()), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    session.histories["teacher"] = [{"loss": 0.5}]
    session.note("teacher", accuracy=0.9, seen=True)
    assert summary(session, material)["best_accuracy"] is None


def test_the_stage_whose_loss_and_accuracy_are_said_is_named(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(600, started=time.time()), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    assert "lowest loss" not in describe(summary(session, material), 1)
    session.histories |= {"distil": [{"loss": 0.5, "accuracy": 0.8}], "finetune": [{"loss": 1, "accuracy": 0.4}]}
    assert "; finetune: lowest loss 1.000, best accuracy 0.4000; " in describe(summary(session, material), 1)
