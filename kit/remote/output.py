"""What a session left on Kaggle, listed and fetched: whole files or none.

The client's own download takes a server's error page for the file. Here a file gets its name when it came to its end, and a CSV, a packed
student or a checkpoint when its sha256 is the one that the run wrote down.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kit.config.override import in_words
from kit.errors import KitError
from kit.files import make_folder, read_object, write_durably
from kit.names import PROVENANCE, RECORD, STUDENT, SUBMISSION
from kit.remote.client import Kaggle

PAGE = 100  # files that are listed at once
ENTRY = "\n,"  # in a log, before each entry but the first
WRITTEN_DOWN = {SUBMISSION: "csv_sha256", STUDENT: "student_sha256"}  # file: the provenance's field


class Provenance(BaseModel):
    """What is read of a provenance.json; a file may lack any of it."""

    model_config = ConfigDict(strict=True)
    recipe: str = ""
    state: str | None = None
    commit: str | None = None
    competition: str = ""
    parameters: int | None = None
    bytes: int | None = None
    validation_accuracy: float | None = None
    problems: list[str] = []
    csv_sha256: str | None = None
    student_sha256: str | None = None


def address(wanted: Any, ref: str) -> None:
    """Say in a request whose session is meant: of owner/slug the newest's, of owner/slug/version that one's."""
    wanted.user_name, wanted.kernel_slug, *version = ref.split("/")
    if version:
        wanted.version_label = f"v{version[0]}"  # by a number alone Kaggle finds none


def list_output(kaggle: Kaggle, ref: str) -> tuple[dict[str, str], str]:
    """{name: address} of all files that a session left, and its log. ref: as `address` takes it.

    Raises:
        KitError: Kaggle refused, or could not be reached.
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    files: dict[str, str] = {}
    wanted = ApiListKernelSessionOutputRequest()
    address(wanted, ref)
    wanted.page_size, log = PAGE, ""
    while True:
        answer = kaggle.ask(lambda client: client.kernels.kernels_api_client.list_kernel_session_output(wanted))
        files |= {file.file_name: file.url for file in answer.files or []}
        log = log or answer.log or ""
        if not answer.next_page_token:
            return files, log
        wanted.page_token = answer.next_page_token


def read_log(text: str) -> tuple[list[str], float]:
    """(lines, seconds of the session when the last one came). Kaggle's log is JSON, a list of {"data": text, "time": seconds}, an entry a
    line, whose end is missing where a session was killed; or plain text, which tells no time."""
    for whole in (text, f"{text}]", f"{text[: text.rfind(ENTRY)]}]"):
        with suppress(ValueError, TypeError, KeyError):
            entries = json.loads(whole)
            seconds = [float(entry.get("time", 0)) for entry in entries]
            return "".join(entry["data"] for entry in entries).splitlines(), max(seconds, default=0.0)
    return text.splitlines(), 0.0


def contents(kaggle: Kaggle, ref: str, pattern: str = ".*") -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a session (`address`) whose whole name fits `pattern`, its provenance first.

    Raises:
        KitError: no file that fits, or one that could not be fetched or is not what the run wrote; a pattern that is none.
    """
    from kit.train.checkpoint import described  # here: torch takes two seconds, and who asks for a score fetches no file

    try:
        wish = re.compile(pattern)
    except re.error as error:
        raise KitError(f"{pattern!r} is no regular expression ({error}). All CSVs are '.*\\.csv', all files '.*'.") from None
    files, _ = list_output(kaggle, ref)
    fitting = [name for name in files if wish.fullmatch(name) and name != PROVENANCE]
    if not fitting and not (PROVENANCE in files and wish.fullmatch(PROVENANCE)):
        raise KitError(f"The session of {ref} left no file that fits {pattern!r}. Has it ended? Look at its page.")
    written: dict[str, Any] = {}
    if PROVENANCE in files:
        content = kaggle.transfer(PROVENANCE, files[PROVENANCE])
        written = read_provenance(content, f"{PROVENANCE} of {ref}", "Run the session again")
        yield PROVENANCE, content
    for name in fitting:
        content = kaggle.transfer(name, files[name])
        saved, found = described(Path(name)), hashlib.sha256(content).hexdigest()
        wanted = saved.digest if saved else written.get(WRITTEN_DOWN.get(name, ""))
        if wanted and not found.startswith(wanted):
            raise KitError(
                f"{name} of {ref} has the sha256 {found[:16]}…, its run wrote {wanted[:16]}…: Kaggle gave another session's file or a "
                "damaged one. It is not kept; try again later."
            )
        yield name, content


def read_provenance(content: bytes, what: str, remedy: str) -> dict[str, Any]:
    """Raises:
    KitError: it is no JSON object, or a field is not of the type that a run writes.
    """
    if not (made := read_object(content)):
        raise KitError(f"{what} is not as a run writes it: it is no JSON object. {remedy}.")
    try:
        Provenance.model_validate(made)
    except ValidationError as error:
        raise KitError(f"{what} is not as a run writes it: {in_words(error)}. {remedy}.") from None
    return made


def fetch(kaggle: Kaggle, ref: str, folder: Path, pattern: str = ".*") -> Iterator[Path]:
    """Download the files of a session (`address`) whose whole name fits `pattern`; yields each when it is whole.

    Raises:
        KitError: as `contents`, and for a name that leads out of `folder`.
    """
    for name, content in contents(kaggle, ref, pattern):
        place = folder / name
        if not place.resolve().is_relative_to(folder.resolve()):
            raise KitError(f"Kaggle lists a file {name!r}, which would be written outside of {folder}. It is not fetched.")
        make_folder(place.parent)
        write_durably(place, content)
        yield place


def mirror(kaggle: Kaggle, ref: str, folder: Path) -> list[Path]:
    """Fetch all that a session left, Kaggle's own files apart, and remove what an earlier one had left in `folder`."""
    kept = set(fetch(kaggle, ref, folder, r"[^_.].*"))
    for stale in [file for file in folder.rglob("*") if file.is_file() and file not in kept]:
        stale.unlink()
    return sorted(kept)


@dataclass(frozen=True)
class Progress:
    """How far a session brought the run. done: to its end."""

    steps: int = 0
    done: bool = False


def progress_of(kaggle: Kaggle, ref: str) -> Progress:
    """Of a session (`address`), by its run.json or the names of its checkpoints, whichever tells more steps.

    Raises:
        KitError: Kaggle refused, or could not be reached.
    """
    from kit.train.checkpoint import described, steps_in

    files, _ = list_output(kaggle, ref)
    record = read_object(kaggle.transfer(RECORD, files[RECORD])) if RECORD in files else {}
    saved = steps_in(found for name in files if (found := described(Path(name))))
    return Progress(max(saved, steps_told(record)), record.get("state") == "done")


def steps_told(record: dict[str, Any]) -> int:
    """The steps in the last line of a run.json; 0 where it tells none."""
    with suppress(KeyError, IndexError, TypeError, ValueError, OverflowError):
        return int(record["sessions"][-1]["steps"])
    return 0
