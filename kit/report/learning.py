"""How the student learned, epoch by epoch, and where the time went."""

from typing import Any

from kit.config.stages import kind_of
from kit.console import counted
from kit.report.figures import Line, Plot, plot
from kit.report.render import brief, percent, whole_percent
from kit.report.run import LATER, Run

KINDS = {
    "step": "training steps",
    "evaluate": "looking at validation",
    "save": "checkpoints",
    "wait": "waiting for the device",
    "photos": "reading photos",
    "teacher": "looking at the teacher",
    "prune": "pruning",
    "compile": "compiling the step",
    "rehearsal": "rehearsing the hand-in",
    "hand in": "provisional hand-in",
}


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
    start, found = offsets(run, trained), {stage.key: stage.accuracy for stage in run.stages if stage.accuracy is not None}
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
    stories = ", ".join(f"{stage.name} {percent(stage.accuracy)}" for stage in run.stages)
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


def times(run: Run) -> list[tuple[str, float]]:
    """(what, seconds) over all sessions, the longest first; what nothing measured is the rest."""
    sessions = run.record["sessions"]
    spent = {says: sum(session.get("seconds_by_kind", {}).get(kind, 0) for session in sessions) for kind, says in KINDS.items()}
    whole = sum(session.get("seconds", 0) for session in sessions)
    parts = sorted(((says, seconds) for says, seconds in spent.items() if seconds >= 0.5), key=lambda part: -part[1])
    rest = whole - sum(seconds for _, seconds in parts)
    return parts + ([("starting, packing, the rest", rest)] if rest > 0 else [])
