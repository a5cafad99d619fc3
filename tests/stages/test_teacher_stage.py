from dataclasses import replace

import numpy as np
import pytest

from kit import predict
from kit.compress.pack import pack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.files import sha256_of
from kit.models.students import build_student, widths_of
from kit.names import TEACHER
from kit.session import open_session
from kit.stages.photos import read_photos
from kit.stages.teacher import find_teacher, forget_own, get_teachers, refuse_order, refuse_weak
from kit.train.budget import Budget
from kit.train.checkpoint import saved_in

CLASSES = tuple("abcdef")
LABELS = np.repeat(np.arange(6), 50)


def answers(accuracy, order=range(6)):
    """A teacher that is right about a share of the photos, its outputs renamed by `order`."""
    random = np.random.default_rng(0)
    right = random.random(len(LABELS)) < accuracy
    return np.array(order)[np.where(right, LABELS, random.integers(0, 6, len(LABELS)))]


@pytest.mark.parametrize("accuracy", [0.9, 0.5, 0.3])
def test_a_teacher_in_the_right_order_is_taken_however_weak(accuracy):
    refuse_order("t.pt", answers(accuracy), LABELS, CLASSES)


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5, 0), (0, 1, 2, 3, 5, 4), (5, 4, 3, 2, 1, 0)])
@pytest.mark.parametrize("accuracy", [0.9, 0.6])
def test_a_teacher_in_another_order_is_refused_and_the_order_is_told(accuracy, order):
    moved = next(i for i in range(6) if order[i] != i)
    with pytest.raises(KitError, match=f"in another order.*output {order[moved]} looks like '{CLASSES[moved]}'"):
        refuse_order("t.pt", answers(accuracy, order), LABELS, CLASSES)


def test_of_two_classes_a_teacher_is_taken_well_below_all_right_and_refused_where_they_are_swapped():
    labels, right = np.arange(100) % 2, np.arange(100) % 10 < 7
    refuse_order("t.pt", np.where(right, labels, 1 - labels), labels, CLASSES[:2])
    swapped = np.where(np.arange(100) % 10 < 9, 1 - labels, labels)
    with pytest.raises(KitError, match=r"in another order: it reaches 0.1000 on validation, and would reach 0.9000"):
        refuse_order("t.pt", swapped, labels, CLASSES[:2])
    with pytest.raises(KitError, match="hardly better than chance"):
        refuse_order("t.pt", np.where(np.arange(100) % 10 < 6, labels, 1 - labels), labels, CLASSES[:2])


def test_a_teacher_that_leaves_outputs_unused_is_weak_and_in_no_other_order():
    """Of each pair it names one class only: the other names would be right as often."""
    refuse_order("t.pt", np.array([1, 1, 3, 3, 5, 5])[LABELS], LABELS, CLASSES)


def test_a_class_without_validation_photos_looks_like_no_other():
    with pytest.raises(KitError, match="hardly better than chance"):
        refuse_order("t.pt", np.ones(5, np.int64), np.zeros(5, np.int64), CLASSES[:2])


@pytest.mark.parametrize("answer", [np.full(300, 3), np.random.default_rng(1).integers(0, 6, 300)])
def test_a_teacher_that_knows_nothing_is_refused_as_such(answer):
    with pytest.raises(KitError, match="hardly better than chance"):
        refuse_order("t.pt", answer, LABELS, CLASSES)


def test_a_teacher_a_point_below_what_was_expected_is_refused_with_the_way_past():
    refuse_weak("t.pt", 0.885, 0.89)
    refuse_weak("t.pt", 0.5, None)
    with pytest.raises(KitError, match=r"teacher\.expected_accuracy=null"):
        refuse_weak("t.pt", 0.87, 0.89)


def test_a_teacher_that_is_attached_by_itself_is_found_and_two_that_differ_are_refused(tmp_path):
    """Kaggle mounts each data set in a folder of its own."""
    name, photos = "resnet18_teacher.ckpt", tmp_path / "photos" / "Food-11"
    photos.mkdir(parents=True)
    assert find_teacher(name, photos, [tmp_path]) is None
    for place, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / "datasets" / place).mkdir(parents=True)
        (tmp_path / "datasets" / place / name).write_text(content)
        if place != "c":
            assert find_teacher(name, photos, [photos, tmp_path / "datasets"]) == tmp_path / "datasets" / "a" / name
    with pytest.raises(KitError, match=r"several teachers .*c.*Name one with --teacher"):
        find_teacher(name, photos, [tmp_path])
    (photos / name).write_text("beside the photos")
    assert find_teacher(name, photos, [tmp_path]) == photos / name


def right(session, drawn, theirs):
    """Photos about which a packed student, trained by the config `theirs`, is right; its file lies in the run's folder."""
    material, student = read_photos(session, drawn, session.out / "cache"), build_student("record", (), 6).eval()
    pack(session.out / "theirs.kit", student, theirs, widths_of(student), material.dataset.classes, {})
    told = predict.logits(student, material.validation, theirs.data).argmax(1).numpy()
    return replace(material, validation=replace(material.validation, labels=told))


@pytest.mark.parametrize("fit", [True, False])
def test_a_final_fit_marks_what_a_teacher_knows_of_photos_that_it_has_learnt_from(fit, drawn, tmp_path, log, capsys):
    config = override(recipe("record").tiny(), ["competition=any", "student.name=record", "train.final_fit=true"])
    session = open_session(config, tmp_path, Budget(None), log)
    get_teachers(session, right(session, drawn, override(config, [f"train.final_fit={fit}"])), [], [tmp_path / "theirs.kit"])
    said = capsys.readouterr().out
    assert session.record["stages"]["teacher"]["seen"] == fit
    assert ("of the validation photos, which were learnt from (train.final_fit)" in said) == fit
    assert ("theirs.kit: validation accuracy" in said) != fit


def test_a_teacher_is_held_against_what_was_expected_also_where_the_account_was_lost(drawn, tmp_path, log):
    """What it answered is there still."""
    config = override(recipe("record").tiny(), ["competition=any", "student.name=record", "teacher.expected_accuracy=0.9"])
    session = open_session(config, tmp_path, Budget(None), log)
    material = right(session, drawn, config)
    get_teachers(session, material, [], [tmp_path / "theirs.kit"])
    material.validation.labels[:30] = (material.validation.labels[:30] + 1) % 6
    del session.record["stages"]["teacher"]
    with pytest.raises(KitError, match=r"reaches 0\.5000 on validation, 0\.9000 was expected"):
        get_teachers(session, material, [], [tmp_path / "theirs.kit"])


@pytest.fixture
def session(tmp_path, log):
    return open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)


def test_where_another_teacher_is_given_nothing_is_left_of_the_runs_own_half_trained_one(session, tmp_path, capsys):
    session.checkpoints("teacher").save(7, {})
    session.checkpoints("distil").save(3, {})
    session.histories["teacher"] = [{"epoch": 1}]
    forget_own(session, "0" * 16)
    assert [saved.stage for saved in saved_in(tmp_path)] == ["distil"]
    assert not session.histories
    assert "half trained at step 7, is not needed any more" in capsys.readouterr().out


def test_a_teacher_that_the_run_has_finished_is_kept_whichever_is_given(session, tmp_path):
    (tmp_path / TEACHER).write_bytes(b"its own")
    session.checkpoints("teacher").save(6, {})
    session.checkpoints("teacher").finish(7, {})
    session.histories["teacher"] = [{"epoch": 1}]
    forget_own(session, sha256_of(tmp_path / TEACHER)[:16])  # a copy of it
    assert session.histories == {"teacher": [{"epoch": 1}]}
    forget_own(session, "0" * 16)
    assert [saved.done for saved in saved_in(tmp_path)] == [True]
    assert (tmp_path / TEACHER).is_file()
