"""What a benchmark found: as JSON, as a table on the screen, and as the table of a Markdown document."""

import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from kit.bench.clock import Timed
from kit.console import counted
from kit.device import Device
from kit.files import fill_place, write_durably
from kit.version import commit


@dataclass(frozen=True)
class Row:
    """values: one for each round, in the outcome's unit."""

    way: str
    says: str
    values: list[float]


@dataclass(frozen=True)
class Outcome:
    """One benchmark's rows, beside what they were measured on.

    unit: such as images/s. baseline: the row that the others are compared with, round by round. facts: what is no row, such as bytes.
    """

    name: str
    what: str
    unit: str
    baseline: str
    rows: list[Row]
    facts: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)


def rates(timed: Sequence[Timed]) -> list[Row]:
    """Of the unit, in a second."""
    return [Row(one.way.name, one.way.says, [one.way.amount / seconds for seconds in one.seconds]) for one in timed]


def milliseconds(timed: Sequence[Timed]) -> list[Row]:
    return [Row(one.way.name, one.way.says, [1000 * seconds for seconds in one.seconds]) for one in timed]


def making(device: Device) -> dict[str, Any]:
    """What a number comes with."""
    return {
        "command": shlex.join(["kit", *sys.argv[1:]]),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "device": device.says,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def processor() -> str:
    """The CPU's name where Linux tells it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def write(outcome: Outcome, file: Path) -> None:
    write_durably(file, (json.dumps(asdict(outcome), indent=1, ensure_ascii=False) + "\n").encode())


def cells(outcome: Outcome) -> Iterator[tuple[str, str, str, str, str]]:
    """way, median, lowest … highest, × baseline by the median of the rounds' own ratios, what it does."""
    reference = next(row for row in outcome.rows if row.way == outcome.baseline)
    for row in outcome.rows:
        ratios = [value / other for value, other in zip(row.values, reference.values, strict=True)]
        against = f"{number(statistics.median(ratios))} ({number(min(ratios))}–{number(max(ratios))})" if row is not reference else "1"
        yield row.way, number(statistics.median(row.values)), f"{number(min(row.values))}–{number(max(row.values))}", against, row.says


def headings(outcome: Outcome) -> tuple[str, ...]:
    return "way", f"{outcome.unit}, median", "lowest–highest", "× baseline", "what it does"


def number(value: float) -> str:
    """Three digits that count; thousands are set apart."""
    rounded = float(f"{value:.3g}")  # or 9.996 would be 10.00
    if rounded >= 100:
        return f"{value:,.0f}"
    return f"{rounded:.1f}" if rounded >= 10 else f"{rounded:.2f}" if rounded >= 0.1 else f"{rounded:.4f}"


def screen(outcome: Outcome) -> Iterator[Table | str]:
    table = Table(*headings(outcome), title=outcome.what, title_justify="left", show_edge=False)
    for column in table.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    for line in cells(outcome):
        table.add_row(*line)
    yield table
    yield from (f"{what}: {found}" for what, found in outcome.facts.items())


def markdown(outcome: Outcome) -> str:
    """The same for a document, with what a number comes with."""
    lines = ["| " + " | ".join(headings(outcome)) + " |", "|---|---:|---:|---:|---|"]
    baseline = lambda way: f"**{way}**" if way == outcome.baseline else way  # noqa: E731
    lines += ["| " + " | ".join((baseline(way), *rest)) + " |" for way, *rest in cells(outcome)]
    made, rounds = outcome.made, len(outcome.rows[0].values)
    lines += ["", *(f"- {what}: {found}" for what, found in outcome.facts.items())] if outcome.facts else []
    cores, threads = counted(made["cores"], "core"), counted(made["threads"], "thread")
    where = f"{made['device']}; {cores} of {made['processor']}, {threads}; torch {made['torch']}"
    told = f"{counted(rounds, 'round')} in shuffled order, {made['date']}, commit {made['commit']}. {where}."
    lines += ["", told, "", f"`{made['command']}`"]
    return "\n".join(lines)


def fill(page: Path, outcome: Outcome) -> None:
    """Put the table into its place in a document.

    Raises:
        KitError: it has none.
    """
    fill_place(page, place_of(outcome.name, outcome.made["device"]), markdown(outcome))


def place_of(name: str, device: str) -> str:
    """What a benchmark's place in a document is called; device: as `Device` says it. A GPU's has one of its own."""
    return f"bench {name}" + ("" if "CPU" in device else " on a GPU")
