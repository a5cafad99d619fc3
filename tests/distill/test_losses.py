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


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def z_scores(row):
    mean = sum(row) / len(row)
    return [(x - mean) / math.sqrt(sum((y - mean) ** 2 for y in row) / (len(row) - 1)) for x in row]


def correlation(a, b):
    a, b = [x - sum(a) / len(a) for x in a], [x - sum(b) / len(b) for x in b]
    dot = lambda u, v: sum(x * y for x, y in zip(u, v, strict=True))  # noqa: E731
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def test_standardised_logits_are_z_scores_of_each_row():
    for found, row in zip(losses.standardise(tensor(STUDENT)), STUDENT, strict=True):
        assert found.tolist() == pytest.approx(z_scores(row), rel=1e-6)


def test_dkd_is_the_target_against_the_rest_and_the_rest_among_themselves():
    temperature, alpha, beta, wanted = 3.0, 0.7, 5.0, 0.0
    for ours, theirs, label in zip(STUDENT, TEACHER, LABELS, strict=True):
        p, q = softmax(theirs, temperature), softmax(ours, temperature)
        target = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [[share / (1 - whole[label]) for k, share in enumerate(whole) if k != label] for whole in (p, q)]
        wanted += temperature**2 * (alpha * target + beta * divergence(*rest)) / 2
    found = losses.dkd(tensor(STUDENT), tensor(TEACHER), torch.tensor(LABELS), temperature, alpha, beta)
    assert found.item() == pytest.approx(wanted)


def test_dkd_with_alpha_one_and_beta_of_the_rests_share_is_kd():
    """The paper's equation 5, for one photo: KD = TCKD + (1 - p_target) · NCKD."""
    student, teacher, label = tensor(STUDENT[:1]), tensor(TEACHER[:1]), torch.tensor(LABELS[:1])
    beta = 1 - softmax(TEACHER[0], 4.0)[LABELS[0]]
    assert losses.dkd(student, teacher, label, 4.0, 1.0, beta).item() == pytest.approx(losses.kd(student, teacher, 4.0).item())


def test_dkds_target_of_a_mixed_photo_is_its_larger_share():
    mixed = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.0, 0.8]])
    given = [losses.dkd(tensor(STUDENT), tensor(TEACHER), labels, 4.0, 1.0, 8.0).item() for labels in (mixed, torch.tensor(LABELS))]
    assert given[0] == given[1]


def test_dkds_target_of_a_photo_without_a_label_is_what_the_teacher_says():
    said = torch.tensor(TEACHER).argmax(1)
    nothing, little = [0.0, 0.0, 0.0], [0.0, 0.3, 0.0]  # what else is in the mixed photo has no label
    for missing in (torch.tensor([-1, 2]), torch.tensor([nothing, [0.1, 0.2, 0.7]]), torch.tensor([little, [0.0, 0.0, 0.6]])):
        known = torch.tensor([said[0], 2])
        found = [losses.dkd(tensor(STUDENT), tensor(TEACHER), labels, 4.0, 1.0, 8.0).item() for labels in (missing, known)]
        assert found[0] == found[1]


def test_dist_is_one_minus_the_correlation_of_rows_and_of_columns():
    temperature, beta, gamma = 2.0, 1.5, 0.5
    ours, theirs = ([softmax(row, temperature) for row in rows] for rows in (STUDENT, TEACHER))
    inter = 1 - sum(correlation(a, b) for a, b in zip(ours, theirs, strict=True)) / 2
    intra = 1 - sum(correlation(a, b) for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)) / 3
    found = losses.dist(tensor(STUDENT), tensor(TEACHER), temperature, beta, gamma)
    assert found.item() == pytest.approx(temperature**2 * (beta * inter + gamma * intra))


def test_mlkd_adds_photos_batch_and_classes_at_every_temperature():
    wanted = 0.0
    for temperature in (2.0, 5.0):
        ours, theirs = ([softmax(row, temperature) for row in rows] for rows in (STUDENT, TEACHER))
        wanted += temperature**2 * sum(divergence(p, q) for p, q in zip(theirs, ours, strict=True)) / 2
        dot = lambda rows, i, j: sum(a * b for a, b in zip(rows[i], rows[j], strict=True))  # noqa: E731
        wanted += sum((dot(theirs, i, j) - dot(ours, i, j)) ** 2 for i in range(2) for j in range(2)) / 2
        columns = [list(zip(*rows, strict=True)) for rows in (ours, theirs)]
        wanted += sum((dot(columns[1], i, j) - dot(columns[0], i, j)) ** 2 for i in range(3) for j in range(3)) / 3
    assert losses.mlkd(tensor(STUDENT), tensor(TEACHER), (2.0, 5.0)).item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: losses.kd(s, t, 4.0),
        lambda s, t: losses.dkd(s, t, torch.tensor(LABELS), 4.0, 1.0, 8.0),
        lambda s, t: losses.dist(s, t, 4.0, 1.0, 1.0),
        lambda s, t: losses.mlkd(s, t, (2.0, 4.0)),
    ],
)
def test_a_student_that_says_what_its_teacher_says_has_no_loss(loss):
    assert loss(tensor(TEACHER), tensor(TEACHER)).item() == pytest.approx(0, abs=1e-12)
    assert loss(tensor(STUDENT), tensor(TEACHER)).item() > 1e-3


def test_dkd_of_a_sure_teacher_has_a_finite_gradient():
    """Its other classes share next to nothing."""
    student = tensor([[0.0, 0.0, 0.0]]).float().requires_grad_()
    losses.dkd(student, torch.tensor([[200.0, 0.0, -5.0]]), torch.tensor([0]), 1.0, 1.0, 8.0).backward()
    assert student.grad.isfinite().all()


def test_l2_is_half_the_squared_distance_of_the_logits():
    wanted = sum((s - t) ** 2 for ours, theirs in zip(STUDENT, TEACHER, strict=True) for s, t in zip(ours, theirs, strict=True)) / 4
    assert losses.l2(tensor(STUDENT), tensor(TEACHER)).item() == pytest.approx(wanted)
