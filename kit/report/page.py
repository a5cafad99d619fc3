"""`report.html`: a run on one page that needs neither network nor script. What is not known yet is left out, section by section."""

import base64
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from kit.config.competitions import competition
from kit.config.differences import differences
from kit.config.recipes import RECIPES
from kit.config.schema import Predict
from kit.config.stages import kind_of
from kit.console import counted
from kit.predict import confusion
from kit.report import scores
from kit.report.figures import Line, Plot, histogram, plot, reliability, sizes, sparkline
from kit.report.render import brief, percent, render, whole_percent
from kit.report.run import LATER, Run

KINDS = {
    "step": "training steps",
    "evaluate": "looking at validation",
    "save": "checkpoints",
    "wait": "waiting for the device",
    "photos": "reading photos",
    "teacher": "looking at the teacher",
    "compile": "compiling the step",
    "rehearsal": "rehearsing the hand-in",
    "hand in": "provisional hand-in",
}
MATRIX = 30  # classes that a confusion matrix is shown for
LAYERS = 12  # histograms
COLUMNS = 6  # stages beside each other; of more, the first two and the last three


def page(run: Run) -> str:
    """A run's page."""
    return render("page.html", {"run": run, "title": f"{run.record['recipe']} · {run.name}"} | answer(run) | sections(run))


def answer(run: Run) -> dict[str, Any]:
    """What comes first."""
    record = run.record
    return {
        "record": record,
        "rules": competition(run.config.whose_limit),
        "competition": competition(run.config.competition),
        "problems": record.get("submission", {}).get("problems", []),
        "seconds": sum(session.get("seconds", 0) for session in record["sessions"]),
        "last": next((session for session in reversed(record["sessions"]) if "error" not in session), {}),
        "photos": len(run.answers.labels) or None,
        "discs": discs(run),
    }


def discs(run: Run) -> dict[str, Any] | None:
    """How much smaller the student is than its teacher."""
    found = {stage.key: stage for stage in run.stages}
    if not {"teacher", "quantize"} <= found.keys():
        return None
    teacher, student = found["teacher"].parameters, found["quantize"].parameters
    says = f"Two discs in scale: the teacher's {teacher:,} parameters, and the student's {student:,}, 1 in {teacher / student:,.0f}."
    return {"figure": sizes(teacher, student, says), "teacher": teacher, "student": student, "accuracy": found["teacher"].accuracy}


def sections(run: Run) -> dict[str, Any]:
    ours, labels = run.logits.get("quantize"), run.answers.labels
    return {
        "stages": run.stages,
        "looks": looks(run.config.predict),
        "packing": run.record["stages"].get("quantize", {}).get("packing"),
        "agreements": agreements(run),
        "curves": curves(run),
        "times": times(run),
        "confusion": confused(run, ours, labels) if ours is not None else None,
        "moves": moves(run),
        "calibration": calibration(run, ours, labels) if ours is not None else None,
        "mistakes": mistakes(run, ours, labels) if ours is not None else [],
        "slimmed": slimmed(run),
        "histograms": histograms(run),
        "changes": changes(run),
        "config": json.dumps(run.record["config"], indent=2, ensure_ascii=False),
        "again": again(run),
    }


def again(run: Run) -> list[str]:
    """The commands of its sessions, each once. What began one on Kaggle is none, and what was refused did nothing."""
    sessions = [session for session in run.record["sessions"] if session.get("ended") != "refused"]
    said = [shlex.split(session.get("command", "")) for session in sessions]
    return list(dict.fromkeys(shlex.join(["kit", *words[1:]]) for words in said if words and Path(words[0]).name in ("kit", "__main__.py")))


def looks(views: Predict) -> str:
    """What the packed student's answers are averaged over, where it is more than one look."""
    if views.crops == 5:
        return ", averaged over centre and corners" + (", each with its mirror image" if views.flip else "")
    return ", averaged with the mirrored photo" if views.flip else ""


def agreements(run: Run) -> dict[str, dict[str, float]]:
    """With the teacher, of each student."""
    if "teacher" not in run.logits:
        return {}
    teacher, labels = run.logits["teacher"], run.answers.labels
    return {key: scores.agreement(logits, teacher, labels) for key, logits in run.logits.items() if key != "teacher"}


def borders(run: Run, stages: tuple[str, ...]) -> list[tuple[float, str]]:
    """(epoch, label) where another session went on, epochs counted through."""
    found, before, session = [], 0, None
    for stage in stages:
        last = {line["epoch"]: line["session"] for line in run.timing.get(stage, [])}  # an epoch may have been done twice
        for epoch, number in sorted(last.items()):
            if session is not None and number != session:
                found.append((before + epoch - 0.5, f"session {number}"))
            session = number
        before += len(run.histories.get(stage, []))
    return found


def curves(run: Run) -> dict[str, Any]:
    """The student's way through its stages in one plot, a small one for each term of its loss, and the teacher's where it learned here."""
    trained = run.trained
    found: dict[str, Any] = {"accuracy": None, "lost": None, "terms": [], "teacher": None}
    if trained:
        found["terms"] = [plot_term(run, trained, name) for name in terms(run, trained)]
    if trained and not run.config.train.final_fit:
        found |= {"accuracy": plot(accuracy_plot(run, trained)), "lost": lost(run, trained[-1])}
    if lines := [line for line in run.histories.get("teacher", []) if "accuracy" in line]:
        way = Line("teacher", [(line["epoch"], line["accuracy"]) for line in lines], "c2")
        says = f"The teacher's validation accuracy over {counted(len(lines), 'epoch')}, best {max(y for _, y in way.points):.1%}."
        found["teacher"] = plot(Plot(says, [way], borders=borders(run, ("teacher",)), write=whole_percent, least=0.01))
    return found


def offsets(run: Run, trained: list[str]) -> dict[str, int]:
    return {stage: sum(len(run.histories[other]) for other in trained[:i]) for i, stage in enumerate(trained)}


def accuracy_plot(run: Run, trained: list[str]) -> Plot:
    start, found = offsets(run, trained), {stage.key: stage.accuracy for stage in run.stages}
    lines = [Line(stage, [(start[stage] + line["epoch"], line["accuracy"]) for line in run.histories[stage]], "c1") for stage in trained]
    dots, end, order = [], lines[-1].points[-1][0], list(run.student_stages)
    ways = {order.index(line.name): line for line in lines}
    for i, stage in enumerate(order):
        if kind_of(stage) == "prune" and stage in found:  # between two lines, and tied to both
            before, after = [way for at, way in ways.items() if at < i][-1:], [way for at, way in ways.items() if at > i][:1]
            pruned = (before[0].points[-1][0] + 0.5 if before else 0.5, found[stage])  # nothing before: begun with another's student
            dots.append((*pruned, "hollow"))
            lines.append(Line("pruning", [*[way.points[-1] for way in before], pruned, *[way.points[0] for way in after]], "thin"))
    if "quantize" in found:
        late = [x + 0.5 for x, _, _ in dots if x > end]  # pruned last of all
        dots.append((max([start[trained[-1]] + best_epoch(run, trained[-1]), *late]), found["quantize"], "full"))
    level = (found["teacher"], f"teacher {percent(found['teacher'])}") if "teacher" in found else None
    stories = ", ".join(f"{stage.name} {stage.accuracy:.1%}" for stage in run.stages)
    says = f"Validation accuracy of the student over {counted(round(end), 'epoch')}. {stories}."
    marks = [(start[stage] + 0.5, LATER.get(stage, "fine-tuning")) for stage in trained if stage != "distil"]
    return Plot(says, lines, dots, marks + borders(run, tuple(trained)), level, whole_percent, least=0.01)


def best_epoch(run: Run, stage: str) -> float:
    """Whose student the stage left, or leaves so far; half an epoch where none was better than what it began with."""
    best = max(run.histories[stage], key=lambda line: line["accuracy"])
    return max(run.record["stages"].get(stage, {}).get("epoch", best["epoch"]), 0.5)


def lost(run: Run, stage: str) -> dict[str, Any] | None:
    """The stage's best epoch, where its last one is a point or more below."""
    way, best = {line["epoch"]: line["accuracy"] for line in run.histories[stage]}, best_epoch(run, stage)
    fell = way[best] - way[max(way)] if best in way else 0
    return {"epoch": best, "of": max(way), "fell": fell} if fell >= 0.01 else None


def terms(run: Run, trained: list[str]) -> list[str]:
    every = [name for stage in trained for line in run.histories[stage] for name in line]
    return [name for name in dict.fromkeys(every) if name not in ("epoch", "step", "accuracy", "macro_f1", "rate")]


def plot_term(run: Run, trained: list[str], name: str) -> dict[str, Any]:
    start = offsets(run, trained)
    ways = {s: [(start[s] + line["epoch"], line[name]) for line in run.histories[s] if name in line] for s in trained}
    lines = [Line(stage, way, "c1") for stage, way in ways.items() if way]
    first, last = lines[0].points[0][1], lines[-1].points[-1][1]
    says = f"The loss term {name} over the epochs, from {brief(first)} to {brief(last)}."
    marks = [(x, "") for x, _ in borders(run, tuple(trained))]
    return {"name": "total" if name == "loss" else name, "last": last, "figure": plot(Plot(says, lines, borders=marks, small=True))}


def times(run: Run) -> list[tuple[str, float]]:
    """(what, seconds) over all sessions, the longest first; what nothing measured is the rest."""
    spent = dict.fromkeys(KINDS, 0.0)
    for session in run.record["sessions"]:
        for kind in KINDS:
            spent[kind] += session.get("seconds_by_kind", {}).get(kind, 0)
    whole = sum(session.get("seconds", 0) for session in run.record["sessions"])
    parts = sorted(((KINDS[kind], seconds) for kind, seconds in spent.items() if seconds >= 0.5), key=lambda part: -part[1])
    rest = whole - sum(seconds for _, seconds in parts)
    return parts + ([("starting, packing, the rest", rest)] if rest > 0 else [])


def confused(run: Run, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    table = confusion(logits.argmax(1), labels, len(run.classes))
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    pairs = [(run.classes[true], run.classes[said], count) for true, said, count in scores.most_confused(table)]
    cells = [list(zip(map(int, row), map(float, share), strict=True)) for row, share in zip(table, shares, strict=True)]
    return {
        "rows": cells if len(run.classes) <= MATRIX else [],
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


def mistakes(run: Run, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    shares, found = softmax(logits, axis=1), []
    for row in scores.worst(logits, labels):
        if row in run.answers.thumbnails:
            said = int(logits[row].argmax())
            image = base64.b64encode(run.answers.thumbnails[row]).decode()
            truth, told = run.classes[labels[row]], run.classes[said]
            found.append({"file": run.answers.names[row], "truth": truth, "said": told, "sure": float(shares[row, said]), "image": image})
    return found


def slimmed(run: Run) -> list[tuple[int, int, int]]:
    """(layer, width before, after) where channels were taken."""
    before, after = run.widths["distil"], run.widths["quantize"]
    return [(i + 1, b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))] if before != after else []


def histograms(run: Run) -> list[dict[str, Any]]:
    largest = sorted(run.weights, key=lambda entry: -entry[1].numel())[:LAYERS]
    names, found = {name for name, *_ in largest}, []
    for name, before, after in run.weights:
        if name in names:
            error = float((after - before).square().mean().sqrt() / before.std())
            shape = "×".join(map(str, before.shape))
            says = f"Histogram of the {before.numel():,} weights of {name} before and after packing, {error:.2%} of their spread apart."
            figure = histogram(before.flatten().numpy(), after.flatten().numpy(), says)
            found.append({"name": name.removesuffix(".weight"), "shape": shape, "error": error, "figure": figure})
    return found


def changes(run: Run) -> list[str]:
    """What differs from the recipe as it is written."""
    made = RECIPES.get(run.record["recipe"].removesuffix("-tiny"))
    return differences(made().model_dump(mode="json"), run.record["config"]) if made else []
