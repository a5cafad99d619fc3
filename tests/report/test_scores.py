"""The page's figures against small tables that can be counted by hand."""

import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from kit.predict import confusion, macro_f1
from kit.report.figures import sizes, ticks
from kit.report.render import brief, short
from kit.report.scores import agreement, calibrate, most_confused, per_class, recalls, surest, worst

LABELS = np.array([0, 0, 0, 1])
LOGITS = np.log(np.array([[0.9, 0.1, 1e-9], [0.6, 0.4, 1e-9], [0.2, 0.8, 1e-9], [0.3, 0.7, 1e-9]]))
TABLE = confusion(LOGITS.argmax(1), LABELS, 3)


def test_scores_of_a_class_without_photos_are_none():
    assert recalls(LOGITS, LABELS) == [pytest.approx(2 / 3), 1.0, None]
    assert per_class(TABLE)[2] == (None, None, None, 0)
    assert per_class(TABLE)[1] == (0.5, 1.0, pytest.approx(2 / 3), 1)


def test_a_row_of_the_confusion_is_a_true_class():
    assert TABLE.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert most_confused(TABLE) == [(0, 1, 1)]


def test_tables_and_scores_are_scikit_learns():
    answer, labels = np.random.default_rng(0).integers(0, (6, 5), (50, 2)).T  # the last class is there in answers alone
    table = confusion(answer, labels, 7)
    assert np.array_equal(table, confusion_matrix(labels, answer, labels=range(7)))
    theirs = precision_recall_fscore_support(labels, answer, labels=range(7), zero_division=np.nan)
    assert np.allclose(np.array(list(zip(*per_class(table), strict=True)), float), theirs, equal_nan=True)
    assert macro_f1(answer, labels) == pytest.approx(np.mean([f1 for _, _, f1, _ in per_class(table) if f1 is not None]))


def test_the_calibration_error_is_the_weighted_gap():
    found = calibrate(LOGITS, LABELS)
    assert sum(found.counts) == 4
    assert found.ece == pytest.approx((0.1 + 0.4 + 0.8 + 0.3) / 4, abs=1e-6)  # each alone in its bin
    sure = calibrate(np.log(np.array([[0.75, 0.25]] * 4)), LABELS)  # right three times in four, and as sure as that
    assert sure.ece == pytest.approx(0)


def test_the_four_parts_of_an_agreement_are_all_photos():
    shares = agreement(LOGITS, -LOGITS[:, [1, 0, 2]] * [1, 1, -1], LABELS)
    assert shares["same"] == 1
    assert sum(shares[part] for part in ("both", "teacher", "student", "neither")) == 1
    assert agreement(LOGITS, np.roll(LOGITS, 1, 1), LABELS)["teacher"] == 0


def test_the_worst_mistake_comes_first_and_what_is_right_never():
    logits = np.array([[0.0, 1.0], [0.0, 9.0], [5.0, 0.0]])
    assert worst(logits, np.array([0, 0, 0])) == [1, 0]


def test_of_each_class_the_surest_right_answer_is_chosen_and_the_surest_class_first():
    logits = np.array([[2.0, 0], [5.0, 0], [0, 9.0], [7.0, 0], [0, 1.0]])
    assert surest(logits, np.array([0, 0, 1, 1, 1])) == [2, 1]
    assert surest(np.eye(30), np.arange(30)) == list(range(18))
    assert surest(logits, np.array([1, 1, 0, 1, 0])) == []


@pytest.mark.parametrize(("low", "high"), [(0.12, 0.97), (0, 1e-7), (950, 1063), (0.3, 0.3), (-2, 5)])
def test_ticks_are_few_and_span_what_is_drawn(low, high):
    found = ticks(low, high, 4)
    assert 2 <= len(found) <= 7
    assert found[0] <= low + 1e-9
    assert high <= found[-1] + 1e-9


def test_a_number_that_is_rounded_up_to_the_next_unit_is_written_in_it():
    assert [short(count) for count in (999, 999_499, 999_500, 1_814_000_000)] == ["999", "999\u202fk", "1\u202fM", "1.81\u202fG"]
    assert [brief(value) for value in (0.12345, 999.4, 999.6, -12_345.6)] == ["0.123", "999", "1,000", "-12,346"]


def test_the_two_discs_areas_are_as_the_networks_parameters():
    discs = lambda teacher, student: re.findall(r'<circle class="(\w+)".*? r="([\d.]+)"', sizes(teacher, student, ""))  # noqa: E731
    assert discs(400, 100) == [("disc", "120.0"), ("c1", "60.0")]
    assert discs(100, 400) == [("c1", "120.0"), ("disc", "60.0")]  # the smaller one in front, and none larger than its figure
