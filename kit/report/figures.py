"""The page's figures, written as SVG and HTML by small functions.

matplotlib was left out: its SVG has the colours and the width of one screen. Here lines take their colours from the page's style, light
or dark, and a plot's labels are HTML beside a stretched SVG, so that they stay legible on a phone. Text is escaped by markupsafe.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from kit.report.render import whole_percent
from kit.report.scores import BINS, Calibration

Point = tuple[float, float]
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten


@dataclass(frozen=True)
class Line:
    """style: a class of style.css, c1 to c6."""

    name: str
    points: Sequence[Point]
    style: str = "c1"


@dataclass(frozen=True)
class Plot:
    """lines, dots: in data units; a dot is (x, y, style). borders: (x, label) of vertical lines. level: (y, label) of a horizontal one.
    least: step between the ticks. says: the alternative text."""

    says: str
    lines: Sequence[Line]
    dots: Sequence[tuple[float, float, str]] = ()
    borders: Sequence[tuple[float, str]] = ()
    level: tuple[float, str] | None = None
    write: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    least: float = 0
    small: bool = False


def ticks(low: float, high: float, about: int, least: float = 0) -> list[float]:
    """Round numbers that span the interval; the first and the last are its new ends. least: the smallest step."""
    raw = max(high - low, abs(high) / 50, least, 1e-9) / about  # what hardly changes is drawn flat
    power = 10 ** math.floor(math.log10(raw))
    step = max(least, next(step * power for step in STEPS if step * power >= raw * (1 - 1e-9)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def plot(figure: Plot) -> Markup:
    xs = [x for line in figure.lines for x, _ in line.points] + [x for x, _, _ in figure.dots]
    ys = [y for line in figure.lines for _, y in line.points] + [y for _, y, _ in figure.dots]
    ys += [figure.level[0]] if figure.level else []
    rows = ticks(min(ys), max(ys), 2 if figure.small else 4, figure.least)
    left, right = min(xs), max(max(xs), min(xs) + 1)
    borders = [(max(x, left), label) for x, label in figure.borders]  # of the first stage before its first epoch

    def across(x: float) -> str:
        return f"{100 * (x - left) / (right - left):.2f}"

    def down(y: float) -> str:
        return f"{100 * (rows[-1] - y) / (rows[-1] - rows[0]):.2f}"

    columns = [x for x in ticks(left, right, 2 if figure.small else 6) if left <= x <= max(xs) and x == int(x)]
    svg = [f'<path class="grid" d="M0 {down(y)}H100"/>' for y in rows]
    svg += [f'<path class="border" d="M{across(x)} 0V100"/>' for x, _ in borders]
    svg += [f'<path class="level" d="M0 {down(figure.level[0])}H100"/>'] if figure.level else []
    for line in figure.lines:
        way = [f"{across(x)} {down(y)}" for x, y in line.points]
        path, style = ("L".join(way), line.style) if len(way) > 1 else ("L".join(way * 2), f"{line.style} one")  # a dot
        svg.append(f'<path class="line {style}" d="M{path}"/>')
    parts = [Markup('<span class="y" style="top:{}%">{}</span>').format(down(y), figure.write(y)) for y in rows]
    parts += [Markup('<span class="x" style="left:{}%">{:g}</span>').format(across(x), x) for x in columns]
    named: dict[str, float] = {}
    for x, label in borders:  # the first come first, and each once: a phone is four wide
        if label and all(abs(x - other) > (right - left) / 4 for other in named.values()):
            named.setdefault(label, x)
    parts += [Markup('<span class="at" style="left:{}%">{}</span>').format(across(x), label) for label, x in named.items()]
    if figure.level:
        place = "on under" if float(down(figure.level[0])) < 10 else "on"  # above the plot the borders have their labels
        parts.append(Markup('<span class="{}" style="top:{}%">{}</span>').format(place, down(figure.level[0]), figure.level[1]))
    parts += [Markup('<i class="{}" style="left:{}%;top:{}%"></i>').format(style, across(x), down(y)) for x, y, style in figure.dots]
    stretched = '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">' + "".join(svg) + "</svg>"
    kind = "plot small" if figure.small else "plot"
    return Markup('<div class="{}" role="img" aria-label="{}">{}{}</div>').format(
        kind, figure.says, Markup(stretched), Markup("").join(parts)
    )


def sparkline(values: Sequence[float | None], says: str) -> Markup:
    """A class's way through the stages, 0…1 from bottom to top of its own range."""
    known = [value for value in values if value is not None]
    low, span = min(known, default=0), max(max(known, default=1) - min(known, default=0), 0.1)
    points = [(4 + 72 * i / max(len(values) - 1, 1), 20 - 16 * (v - low) / span) for i, v in enumerate(values) if v is not None]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1] if points else (0, 0)
    drawn = f'<path class="line c1" d="M{path}"/><circle class="c1" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' if points else ""
    return Markup('<svg class="spark" viewBox="0 0 80 24" role="img" aria-label="{}">{}</svg>').format(says, Markup(drawn))


def reliability(found: Calibration, says: str) -> Markup:
    """Accuracy over confidence: a bar a bin, the diagonal, what the bin lacks (or has too much) in another colour; below, the counts."""
    side, left, most, parts = 240, 42, max(found.counts), []
    for y in (0, 0.5, 1):
        at = 8 + side * (1 - y)
        parts.append(f'<path class="grid" d="M{left} {at}h{side}"/><text x="{left - 6}" y="{at + 4}" class="end">{whole_percent(y)}</text>')
    for i, (count, confidence, accuracy) in enumerate(zip(found.counts, found.confidence, found.accuracy, strict=True)):
        x, wide, tall = left + side * i / BINS + 1, side / BINS - 2, 56 * count / most
        parts.append(f'<rect class="soft" x="{x:.1f}" y="{326 - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
        if not count:
            continue
        top, wanted = 8 + side * (1 - accuracy), 8 + side * (1 - confidence)
        parts.append(f'<rect class="c1" x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{8 + side - top:.1f}"/>')
        gap = f'y="{min(top, wanted):.1f}" width="{wide:.1f}" height="{abs(top - wanted):.1f}"'
        kind = "gap" if wanted < top else "gap short"
        parts.append(f'<rect class="{kind}" x="{x:.1f}" {gap}/>')
    parts.append(f'<path class="level" d="M{left} {8 + side}L{left + side} 8"/>')
    for x, kind, unit in ((0, "middle", ""), (0.5, "middle", " sure"), (1, "end", "")):
        parts.append(f'<text x="{left + side * x}" y="344" class="{kind}">{whole_percent(x)}{unit}</text>')
    parts.append(f'<text x="{left + 4}" y="22">right</text><text x="{left}" y="264">photos a bin</text>')
    return Markup('<svg class="square" viewBox="0 0 296 350" role="img" aria-label="{}">{}</svg>').format(says, Markup("".join(parts)))


def histogram(before: np.ndarray, after: np.ndarray, says: str) -> Markup:
    """Two distributions of one tensor's weights: before as an area, after as a line."""
    reach = float(np.quantile(np.abs(before), 0.995)) or 1.0
    edges = np.linspace(-reach, reach, 61)
    areas = [np.histogram(values, edges)[0] for values in (before, after)]
    tall = max(int(counts.max()) for counts in areas) or 1
    paths = ["L".join(f"{200 * i / 59:.1f} {60 - 56 * count / tall:.1f}" for i, count in enumerate(counts)) for counts in areas]
    drawn = f'<path class="area" d="M0 60L{paths[0]}L200 60Z"/><path class="line c1" d="M{paths[1]}"/>'
    return Markup('<svg class="histogram" viewBox="0 0 200 60" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>').format(
        says, Markup(drawn)
    )


def sizes(teacher: int, student: int, says: str) -> Markup:
    """Two discs whose areas are as the networks' parameters, touching at the bottom, the smaller one in front."""
    ways = ""
    for kind, count in sorted((("disc", teacher), ("c1", student)), key=lambda disc: -disc[1]):
        radius = max(120 * math.sqrt(count / max(teacher, student)), 1)
        ways += f'<circle class="{kind}" cx="122" cy="{242 - radius:.1f}" r="{radius:.1f}"/>'
    return Markup('<svg class="sizes" viewBox="0 0 244 244" role="img" aria-label="{}">{}</svg>').format(says, Markup(ways))
