"""`submissions/`: a folder for each submission, its CSV and where it came from, and ledger.csv, a line for each.

A line is known by its CSV's sha256. A later CSV of the same name takes the place of a provisional one; one that is final or was handed in
stays, with its line, and the later one's folder gets a number. Columns that a person has added are kept.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kit.errors import KitError
from kit.files import locked, make_folder, sha256_of, write_durably, write_json
from kit.names import PROVENANCE, SUBMISSION

COLUMNS = (
    "submission", "date", "recipe", "competition", "state", "validation_accuracy", "parameters", "bytes", "commit", "csv_sha256",
    "handed_in", "ref", "public_score", "private_score",
)  # fmt: skip
Line = dict[str, str]


def file_away(folder: Path, name: str, csv: Path, provenance: dict[str, Any]) -> Path:
    """Keep a submission under `folder`: its CSV, where it came from, and a line in the ledger. Returns its folder."""
    with locked(make_folder(folder), wait=lambda: None):  # two runs may end at once
        place = make_folder(free_place(folder, name.replace("/", "-"), sha256_of(csv)))  # a recipe may be called cats/dogs
        write_durably(place / SUBMISSION, csv.read_bytes())
        write_json(place / PROVENANCE, provenance)
        write_line(folder, provenance | {"submission": place.name, "csv_sha256": sha256_of(csv)})
    return place


def free_place(folder: Path, name: str, sha256: str) -> Path:
    """`folder`/`name` for the CSV with that sha256, with a number where another one lies that stays."""
    provisional = {line["csv_sha256"] for line in read(folder) if gives_way(line)}
    fits = lambda csv: not csv.exists() or sha256_of(csv) in {sha256, *provisional}  # noqa: E731
    return next(place for place in numbered(folder, name) if fits(place / SUBMISSION))


def gives_way(line: Line) -> bool:
    return line["state"] == "suspended" and not line["ref"]


def numbered(folder: Path, name: str) -> Iterator[Path]:
    """`folder`/`name`, and then the same with a number.

    Raises:
        KitError: a thousand were not enough.
    """
    yield from (folder / name, *(folder / f"{name}-{number}" for number in range(2, 1000)))
    raise KitError(f"{folder} holds a thousand folders {name}-…: move them away.")


def enter(folder: Path, values: dict[str, Any]) -> None:
    """Add to the line of the CSV with `values["csv_sha256"]`, or make it."""
    with locked(folder, wait=lambda: None):
        write_line(folder, values)


def write_line(folder: Path, values: dict[str, Any]) -> None:
    new = {name: str(values[name]) for name in COLUMNS if values.get(name) is not None}
    lines = read(folder)
    at = next((i for i, line in enumerate(lines) if line["csv_sha256"] == new["csv_sha256"]), len(lines))
    old = lines[at] if at < len(lines) else dict.fromkeys(COLUMNS, "")
    before, now = (folder / each.get("submission", "") for each in (old, new))
    moved = holds(now, new["csv_sha256"]) and not holds(before, new["csv_sha256"])  # it was handed in from elsewhere before
    line = old | new | ({} if moved or not old["submission"] else {"submission": old["submission"]})
    lines[at : at + 1] = [line]
    table = pd.DataFrame([one for one in lines if one is line or one["submission"] != line["submission"] or not gives_way(one)])
    write_durably(folder / "ledger.csv", table.to_csv(index=False, lineterminator="\n").encode())


def holds(place: Path, sha256: str) -> bool:
    return (csv := place / SUBMISSION).is_file() and sha256_of(csv) == sha256


def read(folder: Path) -> list[Line]:
    """The ledger's lines, oldest first; a column that an older kit did not write is empty.

    Raises:
        KitError: it is no ledger.
    """
    file = folder / "ledger.csv"
    if not file.is_file():
        return []
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise KitError(f"{file} can't be read ({error}). Move it away to begin a new one.") from None
    if "csv_sha256" not in table:  # a spreadsheet has saved it with semicolons: what is written next would leave nothing of it
        raise KitError(f"{file} is no ledger: its first line is {','.join(table.columns)!r:.80}. Save it with commas, or move it away.")
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take each line's beginning for its name
        raise KitError(f"{file} is no ledger: its lines have more fields than the first one names. Name what was added, or move it away.")
    return [dict.fromkeys(COLUMNS, "") | {str(name): line[name] for name in line} for line in table.to_dict("records")]


def four_places(number: str) -> str:
    """To four places; as it is where a spreadsheet has made it no number."""
    try:
        return f"{float(number):.4f}"
    except ValueError:
        return number


def lacks_a_score(line: Line) -> bool:
    """Whether Kaggle may have one by now; it tells the private one after the competition's deadline."""
    return bool(line["ref"]) and not (line["public_score"] and line["private_score"])


def day(time: str) -> str:
    """Month and day; as a spreadsheet writes a date, with its year."""
    return re.sub(r"^\d{4}-", "", time.partition(" ")[0])


def gap(line: Line) -> float | None:
    """Public score minus validation accuracy, + for better than validation said; None where one is missing."""
    try:
        return float(line["public_score"]) - float(line["validation_accuracy"])
    except ValueError:
        return None
