"""Each loss against its paper's formula, worked out independently in double precision."""

import math

import pytest
import torch

from kit.distill import losses


def softmax(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [p / sum(powers) for p in powers]


STUDENT, TEACHER, LABELS = [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], [[2.0, 0.0, -1.0], [1.0, 1.5, -0.5]], [0, 2]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_cross_entropy_is_minus_log_of_the_labels_share():
    wanted = -sum(math.log(softmax(row)[label]) for row, label in zip(STUDENT, LABELS, strict=True)) / 2
    assert losses.ce(tensor(STUDENT), torch.tensor(LABELS)).item() == pytest.approx(wanted)


def test_smoothing_shares_a_part_of_the_label_among_all_classes():
    smoothing, wanted = 0.1, 0.0
    for row, label in zip(STUDENT, LABELS, strict=True):
        target = [smoothing / 3 + (1 - smoothing) * (k == label) for k in range(3)]
        wanted -= sum(t * math.log(q) for t, q in zip(target, softmax(row), strict=True)) / 2
    assert losses.ce(tensor(STUDENT), torch.tensor(LABELS), smoothing).item() == pytest.approx(wanted)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kd_is_t_squared_times_the_divergence_from_the_teacher(temperature):
    wanted = 0.0
    for ours, theirs in zip(STUDENT, TEACHER, strict=True):
        p, q = softmax(theirs, temperature), softmax(ours, temperature)
        wanted += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    assert losses.kd(tensor(STUDENT), tensor(TEACHER), temperature).item() == pytest.approx(wanted)


def test_smooth_l1_is_quadratic_near_zero_and_linear_beyond():
    ours, theirs = tensor([[[[0.5, 3.0]]]]), tensor([[[[0.0, 0.0]]]])
    assert losses.smooth_l1(ours, theirs).item() == pytest.approx((0.5 * 0.5**2 + 3.0 - 0.5) / 2)
    assert losses.mse(ours, theirs).item() == pytest.approx((0.25 + 9) / 2)
