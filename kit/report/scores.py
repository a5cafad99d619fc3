"""The figures of the page that are made from logits: per class, calibration, agreement, the photos that are shown."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

BINS = 10  # of the reliability diagram
SHOWN = 18  # photos of a kind: at 112 px 36 of them are some 150 kB of the page


@dataclass(frozen=True)
class Calibration:
    """A bin an entry: photos in it, their mean confidence and accuracy. ece: expected calibration error, Σ n/N · |accuracy − confidence|
    (Guo et al. 2017, equation 3)."""

    counts: list[int]
    confidence: list[float]
    accuracy: list[float]
    ece: float


def calibrate(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    confidence, right = softmax(logits, axis=1).max(1), logits.argmax(1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, weights=values, minlength=BINS) for values in (confidence, right)]
    mean_confidence, mean_right = (total / np.maximum(counts, 1) for total in sums)
    ece = float((counts * np.abs(mean_right - mean_confidence)).sum() / len(labels))
    return Calibration(counts.tolist(), mean_confidence.tolist(), mean_right.tolist(), ece)


def per_class(table: np.ndarray) -> list[tuple[float | None, float | None, float | None, int]]:
    """(precision, recall, F1, photos) of each class of a confusion; None where there is nothing to divide by."""
    right, answered, there = np.diag(table), table.sum(0), table.sum(1)
    shares = [[float(a / b) if b else None for a, b in zip(right, of, strict=True)] for of in (answered, there, (answered + there) / 2)]
    return list(zip(*shares, there.tolist(), strict=True))


def recalls(logits: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """Share of each class's photos that are known; None for a class without a photo."""
    right = logits.argmax(1) == labels
    return [float(right[labels == k].mean()) if (labels == k).any() else None for k in range(logits.shape[1])]


def agreement(student: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Shares of the photos: `same` answer; and who is right: both, the teacher alone, the student alone, neither."""
    ours, theirs = student.argmax(1), teacher.argmax(1)
    we, they = ours == labels, theirs == labels
    parts = {"both": we & they, "teacher": ~we & they, "student": we & ~they, "neither": ~we & ~they}
    return {"same": float((ours == theirs).mean())} | {name: float(part.mean()) for name, part in parts.items()}


def worst(logits: np.ndarray, labels: np.ndarray) -> list[int]:
    """Rows of the mistakes, the least share for the true class first."""
    shares = softmax(logits, axis=1)[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    return [int(row) for row in wrong[np.argsort(shares[wrong], kind="stable")][:SHOWN]]


def surest(logits: np.ndarray, labels: np.ndarray) -> list[int]:
    """Rows of right answers: of each class the one with the largest share, the surest class first."""
    shares = softmax(logits, axis=1).max(1)
    right = np.flatnonzero(logits.argmax(1) == labels)
    ranked = right[np.argsort(-shares[right], kind="stable")]
    _, best = np.unique(labels[ranked], return_index=True)
    return [int(row) for row in ranked[np.sort(best)]][:SHOWN]


def most_confused(table: np.ndarray, count: int = 5) -> list[tuple[int, int, int]]:
    """(true class, answer, photos) of the most frequent mistakes."""
    off = table - np.diag(np.diag(table))
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    return [(int(i), int(j), int(off[i, j])) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
