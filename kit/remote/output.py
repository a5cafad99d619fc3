"""What a session left on Kaggle, listed and fetched: whole files or none.

The client's own download takes a server's error page for the file. Here a file gets its name when its length is the announced one.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.files import make_folder, write_durably
from kit.remote.client import PAUSES, SECONDS, Kaggle

PAGE = 100  # files that are listed at once


@dataclass(frozen=True)
class OutputFile:
    name: str
    url: str


def list_output(kaggle: Kaggle, ref: str) -> tuple[list[OutputFile], str]:
    """All files of a kernel's newest session, and its log.

    Raises:
        KitError: Kaggle refused, or could not be reached.
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    files: list[OutputFile] = []
    wanted = ApiListKernelSessionOutputRequest()
    wanted.user_name, wanted.kernel_slug = ref.split("/")
    wanted.page_size, log = PAGE, ""
    while True:
        answer = kaggle.ask(lambda service: service.list_kernel_session_output(wanted))
        files += [OutputFile(file.file_name, file.url) for file in answer.files or []]
        log = log or answer.log or ""
        if not answer.next_page_token:
            return files, log
        wanted.page_token = answer.next_page_token


def log_lines(text: str) -> list[str]:
    """Kaggle's log is JSON, a list of {"data": text}, or plain text."""
    with suppress(ValueError, TypeError, KeyError):
        text = "".join(entry["data"] for entry in json.loads(text))
    return text.splitlines()


def fetch(kaggle: Kaggle, ref: str, folder: Path, pattern: str = ".*") -> Iterator[Path]:
    """Download the files of a kernel's newest session whose whole name fits `pattern`; yields each when it is whole.

    Raises:
        KitError: a name that leads out of `folder`, no file that fits, or one that could not be fetched.
    """
    files = [file for file in list_output(kaggle, ref)[0] if re.fullmatch(pattern, file.name)]
    if not files:
        raise KitError(f"The newest session of {ref} left no file that fits {pattern!r}. Has it ended? Look at its page.")
    for file in files:
        place = folder / file.name
        if not place.resolve().is_relative_to(folder.resolve()):
            raise KitError(f"Kaggle lists a file {file.name!r}, which would be written outside of {folder}. Nothing is fetched.")
        make_folder(place.parent)
        write_durably(place, download(kaggle, file))
        yield place


def download(kaggle: Kaggle, file: OutputFile) -> bytes:
    """A file's content, asked for again while it does not come whole."""
    import requests

    reason = ""
    for pause in (*PAUSES, None):
        try:
            answer = requests.get(file.url, timeout=SECONDS)
            announced = answer.headers.get("Content-Length")
            if answer.ok and (announced is None or int(announced) == len(answer.content)):
                return answer.content
            reason = f"{answer.status_code} {answer.reason}, {len(answer.content):,} of {announced} bytes"
        except requests.exceptions.RequestException as error:
            reason = type(error).__name__
        if pause is not None:
            kaggle.sleep(pause)
    raise KitError(f"{file.name} could not be fetched ({reason}), {len(PAUSES) + 1} times. Try again later.")


def session_record(kaggle: Kaggle, ref: str, folder: Path) -> dict[str, Any] | None:
    """run.json of the newest session, fetched into `folder`; None where it left none."""
    files = [file for file in list_output(kaggle, ref)[0] if file.name == "run.json"]
    if not files:
        return None
    content = download(kaggle, files[0])
    write_durably(make_folder(folder) / "run.json", content)
    return json.loads(content)
