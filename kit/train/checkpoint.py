"""Checkpoints that are whole or not there, and that say so themselves.

A file is named by its stage, its step and the first digits of its sha256, torch hub's convention, so one rename makes it valid and
one read checks it; a separate manifest of digests would be a second file to keep in step with the first. Two generations of a stage
are kept. Reading checks the digest, loads weights only, and falls back a generation, aloud.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from kit.console import Log
from kit.errors import KitError
from kit.files import write_durably

NAME = re.compile(r"(?P<stage>[a-z]+)-(?P<step>\d{9}|done)-(?P<digest>[0-9a-f]{16})\.pt")
GENERATIONS = 2


class Checkpoints:
    """The checkpoints of one stage of one run.

    identity: what a checkpoint must agree with to be used, such as the config's and the photos' digests.
    """

    def __init__(self, folder: Path, stage: str, identity: dict[str, str], log: Log):
        self.folder, self.stage, self.identity, self.log = folder, stage, identity, log
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """A new generation. The older ones are there until it is whole.

        Raises:
            OSError: for example a full disk; what was saved before is untouched.
        """
        return self.write(f"{step:09d}", state)

    def finish(self, state: dict[str, Any]) -> Path:
        """The stage's result; it sorts after every step, so it takes the place of the oldest generation."""
        return self.write("done", state)

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, None where there is none yet."""
        return self.newest(done=False)

    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, None before."""
        return self.newest(done=True)

    def clear(self) -> None:
        for path in self.files():
            path.unlink()

    def files(self) -> list[Path]:
        """This stage's files, oldest first; a result sorts after every step."""
        return sorted(p for p in self.folder.iterdir() if (m := NAME.fullmatch(p.name)) and m["stage"] == self.stage)

    def write(self, step: str, state: dict[str, Any]) -> Path:
        buffer = io.BytesIO()  # not straight to the disk: torch.save turns a full disk into a RuntimeError without a file name
        torch.save({"identity": self.identity, "state": state}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"{self.stage}-{step}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_durably(path, content)
        for old in self.files()[:-GENERATIONS]:
            old.unlink()
        for left_over in self.folder.glob(".*.tmp"):
            left_over.unlink()
        return path

    def newest(self, done: bool) -> dict[str, Any] | None:
        for path in reversed(self.files()):
            if (NAME.fullmatch(path.name)["step"] == "done") != done:
                continue
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:16] != NAME.fullmatch(path.name)["digest"]:
                self.log(f"{path} is damaged (its sha256 is not its name's); going back a generation")
                continue
            saved = read(path, content)
            self.refuse_foreign(path, saved["identity"])
            return saved["state"]
        return None

    def refuse_foreign(self, path: Path, identity: dict[str, str]) -> None:
        wrong = [f"{k}: {identity.get(k)} there, {v} here" for k, v in self.identity.items() if identity.get(k) != v]
        if wrong:
            raise KitError(f"{path} belongs to another run ({'; '.join(wrong)}). Choose another --out, or run the command that began it.")


def read(path: Path, content: bytes) -> dict[str, Any]:
    """Weights and plain values only: whatever else a pickle would do is not done."""
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint fail in the restricted unpickler in any way they like
        reason = (str(error).splitlines() or ["?"])[0][:120]
        raise KitError(f"{path} is no checkpoint of the kit and is not loaded ({reason}). Remove it, or choose another --out.") from None
