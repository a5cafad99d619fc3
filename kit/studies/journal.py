"""The journal: a JSON line for each arm and seed that has ended, appended and never rewritten. Tables are made of it alone."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.files import StorageError, make_folder

Entry = dict[str, Any]
NUMBER = (int, float)
NEEDED: dict[str, Any] = {"study": str, "arm": str, "seed": int, "digest": str, "state": str, "setting": str}
NEEDED_OF: dict[str, dict[str, Any]] = {  # by state, what tables ask besides
    "done": {"validation_accuracy": NUMBER, "parameters": NUMBER, "bytes": NUMBER, "seconds": NUMBER},
    "stopped": {"error": str, "curve": list},
    "failed": {"error": str},
}


def append(file: Path, entry: Entry) -> None:
    """Raises:
    StorageError: the line could not be written whole.
    """
    make_folder(file.parent)
    try:
        with open(file, "ab+") as journal:
            journal.seek(0, os.SEEK_END)
            if journal.tell() and not ends_a_line(journal):
                journal.write(b"\n")  # the line before was cut off; it stays, and is passed over
            journal.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
    except OSError as error:
        raise StorageError.of(file, error) from None


def made(file: Path) -> Path:
    """The journal, an empty one where there is none: to be locked, and so that one that can't be written is told before an arm is run.

    Raises:
        StorageError: it can't be written.
    """
    make_folder(file.parent)
    try:
        open(file, "ab").close()
    except OSError as error:
        raise StorageError.of(file, error) from None
    return file


def ends_a_line(journal: Any) -> bool:
    journal.seek(-1, os.SEEK_END)
    return journal.read(1) == b"\n"


def whole(line: str) -> Entry | None:
    """The entry of a line that has all that is asked of it; None of another."""
    with suppress(ValueError, AttributeError, KeyError, TypeError):
        entry: Entry = json.loads(line)
        if all(isinstance(entry.get(name), kind) for name, kind in (NEEDED | NEEDED_OF[entry["state"]]).items()):
            return entry
    return None


def read(file: Path, study: str, say: Callable[[str], None]) -> list[Entry]:
    """The journal's entries; a line that is no whole entry is named and passed over.

    Raises:
        KitError: the journal is another study's.
    """
    if not file.is_file():
        return []
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not (entry := whole(line)):
            say(f"{file}, line {number}: half written or damaged, passed over")
            continue
        if entry["study"] != study:
            raise KitError(
                f"{file} is the journal of the study {entry['study']!r}, not of {study!r}. Choose another --out (and --docs, where it is "
                "given)."
            )
        entries.append(entry)
    return entries


def furthest_of(entries: list[Entry], setting: str) -> dict[tuple[str, int], Entry]:
    """{(arm, seed): its entry}. What is done counts, whatever was tried again after it, and what was stopped before what failed; of equals
    the newest."""
    by_state = sorted(entries, key=lambda entry: (entry["state"] == "done", entry["state"] == "stopped"))
    return {(entry["arm"], entry["seed"]): entry for entry in by_state if entry["setting"] == setting}
