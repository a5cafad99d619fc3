"""Several runs on one page, side by side: figures, curves overlaid, what differs between their configs, each class."""

from pathlib import Path
from typing import Any

from kit.config.differences import differing
from kit.errors import KitError
from kit.files import make_folder, write_durably
from kit.report.figures import Line, Plot, plot
from kit.report.lead import tried
from kit.report.render import percent, render, whole_percent
from kit.report.run import LATER, STUDENT_STAGES, Run
from kit.report.scores import agreement, recalls

STYLES = ("c1", "c2", "c4", "c5", "c6", "c3")  # each has a dash of its own, for eyes that see no colours


def compare(runs: list[Run], out: Path) -> Path:
    """Write the page of several runs.

    Raises:
        KitError: more of them than there are lines to tell apart.
    """
    if len(runs) > len(STYLES):
        raise KitError(f"{len(runs)} runs are too many: a page tells {len(STYLES)} apart. Make several, each with its --out.")
    names = distinct(runs)
    pairs = enumerate(zip(names, runs, strict=True))
    marked: list[dict[str, Any]] = [{"name": name, "run": run, "style": STYLES[i]} for i, (name, run) in pairs]
    values = {
        "title": " · ".join(names),
        "runs": [entry | facts(entry["run"]) for entry in marked],
        "stages": {key: name for key, name in STUDENT_STAGES.items() if key not in LATER or any(key in run.trained for run in runs)},
        "curves": curves(marked),
        "changes": changes(runs),
        "classes": classes(runs),
    }
    make_folder(out.parent)
    write_durably(out, render("compare.html", values).encode())
    return out


def distinct(runs: list[Run]) -> list[str]:
    """The folders' names, with their parents' where two have the same."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.out) for run in runs]


def facts(run: Run) -> dict[str, Any]:
    """A run's line in the table."""
    last = next((stage for stage in reversed(run.stages) if stage.key != "teacher"), None)
    both = "teacher" in run.logits and "quantize" in run.logits
    return {
        "record": run.record,
        "tried": ", ".join(tried(run)),
        "last": last,
        "same": agreement(run.logits["quantize"], run.logits["teacher"], run.answers.labels)["same"] if both else None,
        "seconds": sum(session.get("seconds", 0) for session in run.record["sessions"]),
        "by_stage": {stage.key: stage.accuracy for stage in run.stages},
    }


def curves(marked: list[dict[str, Any]]) -> Any:
    """Validation accuracy of each run's student, stages one after the other; None where no student has learned yet."""
    lines = []
    for entry in marked:
        run = entry["run"]
        way = [line["accuracy"] for stage in run.trained for line in run.histories[stage] if "accuracy" in line]
        if way:
            lines.append(Line(entry["name"], list(enumerate(way, 1)), entry["style"]))
    says = "Validation accuracy over the epochs: " + ", ".join(f"{line.name} ends at {percent(line.points[-1][1])}" for line in lines) + "."
    return plot(Plot(says, lines, write=whole_percent, least=0.01)) if lines else None


def changes(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """(field, its value in each run) where the configs are not all the same."""
    dumps = [run.record["config"] for run in runs]
    found = [differing(dumps[0], other) for other in dumps[1:]]
    firsts = {field: first for fields in found for field, (first, _) in fields.items()}
    return [(field, [first, *(fields.get(field, (first, first))[1] for fields in found)]) for field, first in firsts.items()]


def classes(runs: list[Run]) -> list[tuple[str, list[float | None], float]]:
    """(class, recall of each run's packed student, the best), where all know the same classes."""
    if len({run.classes for run in runs}) > 1 or any("quantize" not in run.logits for run in runs):
        return []
    columns = [recalls(run.logits["quantize"], run.answers.labels) for run in runs]
    rows = [(name, list(values)) for name, *values in zip(runs[0].classes, *columns, strict=True)]
    return [(name, values, max((value for value in values if value is not None), default=0)) for name, values in rows]
