"""What the answers to the validation photos tell: of each class, of the teacher, of how sure the student is, and photos of both kinds."""

import base64
from typing import Any

import numpy as np
from scipy.special import softmax

from kit.predict import confusion
from kit.report import scores
from kit.report.figures import reliability, sparkline
from kit.report.run import Run

MATRIX = 30  # classes that a confusion matrix is shown for
COLUMNS = 6  # stages beside each other; of more, the first two and the last three


def agreements(run: Run) -> dict[str, dict[str, float]]:
    """With the teacher, of each student."""
    if "teacher" not in run.logits:
        return {}
    teacher, labels = run.logits["teacher"], run.answers.labels
    return {key: scores.agreement(logits, teacher, labels) for key, logits in run.logits.items() if key != "teacher"}


def confused(run: Run, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    table = confusion(logits.argmax(1), labels, len(run.classes))
    pairs = [(run.classes[true], run.classes[said], count) for true, said, count in scores.most_confused(table)]
    return {
        "rows": [[(int(count), float(count / max(row.sum(), 1))) for count in row] for row in table] if len(table) <= MATRIX else [],
        "pairs": pairs,
        "scores": [(name, *entry) for name, entry in zip(run.classes, scores.per_class(table), strict=True)],
    }


def moves(run: Run) -> dict[str, Any] | None:
    """Each class's recall at each stage, and who lost most on the way from the first student to the last."""
    stages = [stage for stage in run.stages if stage.key in run.logits]
    students = [i for i, stage in enumerate(stages) if stage.key != "teacher"]
    if not students:
        return None
    shown = range(len(stages)) if len(stages) <= COLUMNS else (0, 1, *range(len(stages) - 3, len(stages)))
    columns = [scores.recalls(run.logits[stage.key], run.answers.labels) for stage in stages]
    rows = []
    for name, *values in zip(run.classes, *columns, strict=True):
        way = [values[i] for i in students]
        change = None if None in way or len(way) < 2 else way[-1] - way[0]
        told = ", ".join(f"{stage.name} {value:.0%}" for stage, value in zip(stages, values, strict=True) if value is not None)
        figure = sparkline(way, f"Recall of {name}: {told}.")
        rows.append({"name": name, "values": [values[i] for i in shown], "change": change, "figure": figure})
    ranked = sorted((row for row in rows if row["change"] is not None), key=lambda row: row["change"])
    ends = {"least": ranked[0] if ranked else None, "most": ranked[-1] if ranked else None}
    return {"stages": [stages[i] for i in shown], "left_out": len(stages) - len(shown), "rows": rows} | ends


def calibration(run: Run, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    found = scores.calibrate(logits, labels)
    confidence = float(softmax(logits, axis=1).max(1).mean())
    right = float((logits.argmax(1) == labels).mean())
    each = {"student": found} | ({"teacher": scores.calibrate(run.logits["teacher"], labels)} if "teacher" in run.logits else {})
    says = "Reliability diagram of the {}: accuracy over confidence, expected calibration error {:.3f}."
    figures = [(name, reliability(one, says.format(name, one.ece))) for name, one in each.items()]
    teacher = each["teacher"].ece if "teacher" in each else None
    return {"figures": figures, "ece": found.ece, "confidence": confidence, "right": right, "teacher": teacher}


def photos(run: Run, logits: np.ndarray, rows: list[int]) -> list[dict[str, Any]]:
    """Those of the rows of which a thumbnail was kept. sure: the share of what was said."""
    shares, found = softmax(logits, axis=1), []
    for row in rows:
        if row in run.answers.thumbnails:
            said = int(logits[row].argmax())
            image = base64.b64encode(run.answers.thumbnails[row]).decode()
            truth, told = run.classes[run.answers.labels[row]], run.classes[said]
            found.append({"file": run.answers.names[row], "truth": truth, "said": told, "sure": float(shares[row, said]), "image": image})
    return found
