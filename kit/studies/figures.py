"""Figures of a study for print: bars, curves of parameters against accuracy, and diagrams of the networks, of what is distilled and of what
was pruned, drawn from the models and the journal."""

import math
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from torch import nn

from kit.config.schema import Config
from kit.config.stages import kind_of
from kit.config.terms import OfMaps, OfStages
from kit.models.teacher import build_teacher
from kit.studies.networks import Box, boxes, build, classes_of, named
from kit.studies.study import Arm, Study
from kit.studies.tables import Row

# a figure's name is the study's with one of these; what it shows
SAYS = {
    "": "accuracy of every arm, mean and standard deviation over seeds",
    "-curves": "accuracy by parameters",
    "-networks": "the networks: each block's maps, channels × height × width, and its parameters",
    "-distillation": "what the student learns from: terms of the loss between its parts and the teacher's",
    "-pruning": "channels that are left of each layer",
}
BLUE, ORANGE, GREY, PALE = "#2563eb", "#b45309", "#6b7280", "#e5e7eb"
WHITE = {"fc": "white", "ec": "none", "pad": 1}  # behind words that an arrow would cross
WIDE = 2.4  # of a column of boxes, inches


def draw(study: Study, made: list[Row], networks: dict[str, nn.Module]) -> dict[str, Any]:
    """{name: figure} of all that there is something to show of."""
    import matplotlib

    matplotlib.use("Agg")
    drawn = {
        "": bars(study, made),
        "-curves": curves(made),
        "-networks": draw_networks(networks, study.arms[0].config),
        "-distillation": distillation(study),
        "-pruning": pruning(made),
    }
    return {f"{study.name}{kind}": figure for kind, figure in drawn.items() if figure is not None}


def save(figure: Any, salt: str, place: Path) -> list[Path]:
    """As SVG and PNG; equal figures give equal bytes."""
    import matplotlib
    from matplotlib import pyplot

    files = [place.with_name(f"{place.name}.{kind}") for kind in ("svg", "png")]
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        for file in files:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return files


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def bars(study: Study, made: list[Row]) -> Any:
    """From zero, with its figure at the end of each and error bars where there are several seeds; the best above."""
    shown = [(row, row.mean) for row in reversed(made) if row.mean is not None]
    if not shown:
        return None
    figure, axes = new_figure(7, 0.8 + 0.32 * len(shown))
    names, means = [row.arm.name for row, _ in shown], [mean for _, mean in shown]
    colours = [ORANGE if name == study.reference else BLUE for name in names]
    spreads = [math.nan if row.spread is None else row.spread for row, _ in shown]
    drawn = axes.barh(names, means, xerr=spreads, color=colours, capsize=3)
    axes.bar_label(drawn, [f"{mean:.4f}" for mean in means], padding=5, fontsize=8)
    axes.margins(x=0.1)
    axes.set_xlabel("validation accuracy")
    return figure


def curves(made: list[Row]) -> Any:
    """A line for each way of pruning: from the student that it begins with through all that was measured, or through its steps where one
    arm is a whole line."""
    rows = {row.arm.name: row for row in made if row.mean is not None}
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows.values():
        if not row.arm.curve:
            continue
        line = lines.setdefault(row.arm.curve, [])
        for each in (rows.get(row.arm.begins), row):
            if each and each.parameters and each.mean is not None:
                line.append((each.parameters, each.mean, math.nan if each.spread is None else each.spread))
        line += points_between(row)
    if not lines:
        return None
    figure, axes = new_figure(8, 4.2)
    for i, (name, line) in enumerate(sorted(lines.items())):
        parameters, accuracies, spreads = zip(*sorted(set(line)), strict=True)
        look: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3, "color": f"C{i % 10}", "linestyle": "--" if i > 9 else "-"}
        axes.errorbar(parameters, accuracies, yerr=spreads, label=name, **look)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("parameters")
    axes.set_ylabel("validation accuracy")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def points_between(row: Row) -> list[tuple[float, float, float]]:
    """After each step but the last: fine-tuned where it was, else pruned."""
    stages = row.stages[0] if row.stages else {}
    last = {stage.removeprefix(kind_of(stage)): stage for stage in stages}  # by the step's number, "" where there is none
    of_steps = [[each[stage] for each in row.stages if stage in each] for number, stage in last.items() if number]
    return [(mean([each["parameters"] for each in found]), mean([each["accuracy"] for each in found]), math.nan) for found in of_steps]


# ── diagrams ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def column(axes: Any, x: float, title: str, parts: list[Box], colour: str) -> dict[str, tuple[float, float]]:
    """Boxes from the input above to the answer below; {module: middle of its box}."""
    places: dict[str, tuple[float, float]] = {}
    axes.text(x, 0.6, title, ha="center", va="bottom", fontsize=9, weight="bold")
    for i, (name, shape, parameters) in enumerate(parts):
        says = f"{name}   {'×'.join(map(str, shape))}   {parameters:,}"
        axes.text(x, -i, says, ha="center", va="center", fontsize=7, bbox={"boxstyle": "round,pad=0.35", "fc": PALE, "ec": colour})
        places[name] = (x, -i)
        if i:
            axes.annotate("", (x, -i + 0.3), (x, -i + 0.7), arrowprops={"arrowstyle": "->", "color": GREY})
    return places


def bare(columns: int, longest: int, gap: float = 1.0) -> tuple[Any, Any]:
    figure, axes = new_figure(gap * WIDE * columns + 0.4, 0.42 * longest + 1)
    axes.set_axis_off()
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(-longest + 0.2, 1.4)
    return figure, axes


def draw_networks(networks: dict[str, nn.Module], config: Config) -> Any:
    columns = {name: boxes(network, config.data.image_size) for name, network in networks.items()}
    figure, axes = bare(len(columns), max(map(len, columns.values())))
    for x, (name, parts) in enumerate(columns.items()):
        column(axes, x, name, parts, BLUE)
    return figure


def distillation(study: Study) -> Any:
    """Of the reference where it has a teacher, else of the first arm that has."""
    taught = [arm for arm in study.arms if arm.config.taught]
    if not taught:
        return None
    return draw_distillation(study, next((arm for arm in taught if arm.name == study.reference), taught[0]))


def draw_distillation(study: Study, arm: Arm) -> Any:
    config = arm.config
    with torch.device("meta"):
        teacher = build_teacher(config.teacher.arch, classes_of(config))
    title: str = config.teacher.arch
    if arm.teacher:
        teacher, title = build(study.arm(arm.teacher).config), study.arm(arm.teacher).config.student.name
    theirs, ours = boxes(teacher, config.data.image_size), boxes(build(config), config.data.image_size)
    figure, axes = bare(2, max(len(theirs), len(ours)) + 2, gap=1.6)
    left, right = column(axes, 0, f"teacher: {title}", theirs, ORANGE), column(axes, 1, f"student: {named(config)}", ours, BLUE)
    last = (list(left.values())[-1], list(right.values())[-1])
    for i, term in enumerate(config.distill):
        heat = f", T = {term.temperature:g}" if hasattr(term, "temperature") else ""
        says = f"{term.loss} × {term.weight:g}" + ("" if term.ramp == "constant" else f" × {term.ramp}") + heat
        if isinstance(term, (OfMaps, OfStages)):
            pairs = zip(*(names if isinstance(names, tuple) else (names,) for names in (term.teacher, term.student)), strict=False)
            ends = [(place(left, a), place(right, b)) for a, b in pairs]
        elif term.loss == "ce":
            axes.text(1, last[1][1] - 1.5, f"labels: {says}", ha="center", fontsize=8, color=ORANGE)
            ends = []
        else:
            ends = [last]
        for a, b in ends:
            axes.annotate("", (b[0] - 0.3, b[1]), (a[0] + 0.3, a[1]), arrowprops={"arrowstyle": "->", "color": ORANGE})
            axes.text(0.5, (a[1] + b[1]) / 2 + 0.15 + 0.5 * i, says, ha="center", fontsize=8, color=ORANGE, bbox=WHITE)
    return figure


def place(column: dict[str, tuple[float, float]], name: str) -> tuple[float, float]:
    """Of the box that a tapped module is, is in, or ends with."""
    inside = [box for box in column if name == box or name.startswith(f"{box}.")] or [box for box in column if box.startswith(f"{name}.")]
    return column[inside[-1]]


def pruning(made: list[Row]) -> Any:
    """A line for each pruned arm, and one for the student before: how much of each layer is left, by the first seed, with the widths."""
    found: dict[str, Any] = {}
    for row in [row for row in made if row.arm.curve and row.stages]:
        widths = [each["widths"] for each in row.stages[0].values() if each.get("widths")]
        if len(widths) > 1:
            found |= {"before": widths[0], row.arm.name: widths[-1]}
    if not found or len({len(widths) for widths in found.values()}) > 1:
        return None
    shares = [[width / before for width, before in zip(widths, found["before"], strict=True)] for widths in found.values()]
    layers = range(len(found["before"]))
    figure, axes = new_figure(2 + 0.45 * len(layers), 0.9 + 0.26 * len(found))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for y, widths in enumerate(found.values()):
        for x, width in enumerate(widths):
            axes.text(x, y, str(width), ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(found)), list(found), fontsize=7)
    axes.set_xticks(layers, [str(layer + 1) for layer in layers], fontsize=7)
    axes.set_xlabel("channels left of each width, from the input to the answer")
    return figure
