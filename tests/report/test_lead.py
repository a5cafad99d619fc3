"""The first lines of a page, of real runs in every state."""

import re
from dataclasses import replace

import numpy as np
import pytest

from kit.config.override import override
from kit.config.recipes import recipe
from kit.pipeline import run
from kit.report.compare import compare
from kit.report.lead import first, sentence, title, yardstick
from kit.report.page import page
from kit.report.run import read_run
from kit.train.budget import Budget


def shortly(runs, out, *settings):
    """A run of a few steps on the fixture's photos, without a teacher."""
    config = override(recipe("sample").tiny(), ["train.epochs=2", "prune=null", 'distill=[{"loss":"ce"}]', *settings])
    run(config, runs.done.parent / "photos", out, cache=runs.done.parent / "cache", budget=Budget(None))
    return read_run(out)


def with_teacher(ran, **facts):
    record = ran.record | {"stages": ran.record["stages"] | {"teacher": ran.record["stages"]["teacher"] | facts}}
    return replace(ran, record=record)


def test_a_run_is_one_sentence_of_its_own_figures(runs):
    ran = read_run(runs.done)
    accuracy, teacher = ran.record["validation_accuracy"], ran.record["stages"]["teacher"]["accuracy"]
    says = (
        rf"A student of {ran.record['parameters']:,} parameters tells 6 classes apart with {100 * accuracy:.1f}\u202f% accuracy: "
        rf"1/\d{{3}} of its teacher’s size and {100 * accuracy / teacher:.0f}\u202f% of its accuracy\."
    )
    assert re.fullmatch(says, sentence(ran))
    assert sentence(ran) in (runs.done / "report.html").read_text(encoding="utf-8")


def test_food_is_told_by_its_kinds(runs):
    ran = read_run(runs.done)
    assert "tells 6 kinds of food apart" in sentence(replace(ran, config=override(ran.config, ["competition=hw13-2023"])))


def test_a_teacher_of_the_students_size_and_two_teachers_are_said_as_such(runs):
    ran = read_run(runs.done)
    alike = with_teacher(ran, parameters=ran.record["parameters"], macs=1, accuracy=1.0)
    assert re.search(r"accuracy: [\d.]+\u202f% of its teacher’s accuracy\.$", sentence(alike))
    near = with_teacher(ran, parameters=int(1.6 * ran.record["parameters"]), macs=1)
    assert re.search(r"accuracy: 6[23]\u202f% of its teacher’s size and", sentence(near))
    both = with_teacher(ran, accuracies=[0.5, 0.6])
    assert re.search(r"of its teachers’ size and \d+\u202f% of their accuracy\.$", sentence(both))
    assert yardstick(both)["rows"][-1][0] == "its teachers"
    assert "–" in sentence(with_teacher(ran, accuracy=0.0))


def test_a_run_of_labels_alone_names_no_teacher(runs, tmp_path):
    ran = shortly(runs, tmp_path / "labels")
    assert re.fullmatch(r"A student of [\d,]+ parameters tells 6 classes apart with [\d.]+\u202f% accuracy\.", sentence(ran))
    assert "teacher" not in str(yardstick(ran))
    assert "the student, as it learned from the labels" in page(ran)


def test_a_teacher_that_was_only_measured_is_not_called_the_students_own(runs):
    ran = read_run(runs.done)
    alone = replace(ran, config=override(ran.config, ["prune=null", 'distill=[{"loss":"ce"}]']))
    assert re.search(r"of the teacher’s size and [\d.]+\u202f% of its accuracy", sentence(alone))
    assert yardstick(alone)["rows"][-1][0] == "the teacher"


def test_a_final_fit_claims_no_accuracy(runs, tmp_path):
    ran = shortly(runs, tmp_path / "fit", "train.final_fit=true")
    html = (tmp_path / "fit" / "report.html").read_text(encoding="utf-8")
    assert "No accuracy is claimed: no photo is left to measure it on." in html
    assert "<h1>–</h1>" in html
    assert title(ran) == "smoke test · sample-tiny · fit"
    assert yardstick(ran) is None


def test_what_a_teacher_knows_of_photos_that_it_has_learnt_from_stands_nowhere(runs, tmp_path):
    ran = with_teacher(read_run(runs.done), accuracy=0.98765, seen=True)
    assert "98.8" not in page(ran)
    assert "98.8" not in compare([ran, ran], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "98.8" in page(with_teacher(ran, seen=False))
    assert "and – of its accuracy" in sentence(ran)
    assert len(yardstick(ran)["rows"]) == 2


def test_what_is_not_done_is_so_far(runs):
    half = read_run(runs.suspended)
    assert "o far" in sentence(half)
    running = replace(read_run(runs.done), record=read_run(runs.done).record | {"state": "running"})
    assert sentence(running).startswith("So far a student of ")
    html = page(running)
    assert "It runs, or was killed: the same command goes on from here." in html
    assert "rows, provisional" in html or "can’t be submitted" in html


def test_before_a_student_is_packed_the_one_in_training_is_named(runs):
    half = read_run(runs.suspended)
    kept = {key: value for key, value in half.record.items() if key not in ("validation_accuracy", "parameters", "bytes", "submission")}
    stages = {key: value for key, value in half.record["stages"].items() if key != "quantize"}
    early = replace(half, record=kept | {"stages": stages})
    best = half.best_so_far("distil")
    assert sentence(early) == (
        f"No student is packed yet. The one in training knows {100 * best:.1f}\u202f% of the validation photos so far."
    )
    assert "<h1>–</h1>" in page(early)


def test_the_yardstick_is_the_largest_class_on_the_same_photos(runs):
    ran = read_run(runs.done)
    labels = np.array([3] * 40 + [1] * 20)
    found = yardstick(replace(ran, answers=replace(ran.answers, labels=labels)))
    assert found["rows"][0] == (f"always answering “{ran.classes[3]}”", pytest.approx(2 / 3), "c3")
    assert found["rows"][1][1] == ran.record["validation_accuracy"]
    assert yardstick(replace(ran, answers=replace(ran.answers, labels=labels[:0]))) is None


@pytest.mark.parametrize(("accuracy", "said"), [(1 / 6, True), (0.17, False)])
def test_a_student_that_is_no_better_than_one_answer_is_told_so(runs, accuracy, said):
    ran = read_run(runs.done)  # ten photos of each of six classes
    known = replace(ran, record=ran.record | {"validation_accuracy": accuracy})
    assert ("That is no better than to say “" in page(known)) == said


def test_a_smoke_test_and_a_share_of_the_photos_are_marked_before_any_figure(runs):
    ran = read_run(runs.done)
    part, whole = (replace(ran, config=override(ran.config, assignments)) for assignments in (["data.subset=0.07"], ["trial=null"]))
    top = page(part).partition("<h1>")[0]
    assert "<code>--tiny</code> goes through every stage once" in top
    assert "its figures mean nothing. Made from 7\u202f% of the photos" in top
    assert "A try" in page(replace(part, config=override(part.config, ["trial=null"]))).partition("<h1>")[0]
    assert '<p class="warn top">' not in page(whole)


def test_the_tab_begins_with_the_accuracy_and_the_page_has_its_days(runs):
    ran = read_run(runs.done)
    assert title(ran) == f"{100 * ran.record['validation_accuracy']:.1f}\u202f% · smoke test · sample-tiny · done"
    assert f"<title>{title(ran)}</title>" in (runs.done / "report.html").read_text(encoding="utf-8")
    sessions = [session | {"started": f"2026-11-{day} 23:00:00"} for session, day in zip(ran.record["sessions"], (28, 29), strict=True)]
    assert '<span class="whole">2026-11-28 to 2026-11-29</span>' in page(replace(ran, record=ran.record | {"sessions": sessions}))
    assert first(replace(ran, record=ran.record | {"sessions": sessions[:1]}))["days"] == "2026-11-28"
