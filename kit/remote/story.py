"""chain.json: what a chain knows between two commands."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from kit.config.override import in_words
from kit.errors import KitError
from kit.files import write_json
from kit.remote.push import Pushed

FILE = "chain.json"
Via = Literal["self", "pair", "dataset"]


@dataclass
class Reached:
    """How far a session brought the run, and how it ended."""

    ref: str
    version: int
    step: int
    state: str = "COMPLETE"


@dataclass
class Story:
    """A chain so far.

    via: how the state travels. running: the session that was pushed and not yet looked at. before: the newest version of the kernel
    `before_of` when a push of it was begun, None when none is under way. steps: of the run, after each session. furthest: the session that
    brought the run there. tail: the end of the last session's log. limit: after which Kaggle ends the running session, seconds, None for
    its own. texts: sha256 of what was sent, or was about to be, since `before`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ref: str
    via: Via = "self"
    running: Pushed | None = None
    before: int | None = None
    before_of: str = ""
    steps: list[NonNegativeInt] = field(default_factory=list)
    furthest: Reached | None = None
    tail: str = ""
    state: Literal["running", "done"] = "running"
    limit: int | None = None
    texts: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        return max(self.steps, default=0)

    @property
    def still(self) -> int:
        """How many of the last sessions brought nothing."""
        return len(self.steps) - 1 - self.steps.index(self.step) if self.step else len(self.steps)


def read_story(file: Path, ref: str) -> Story:
    """The chain that the file tells of, or a new one.

    Raises:
        KitError: it is damaged, or of another kernel.
    """
    if not file.is_file():
        return Story(ref)
    try:
        story = TypeAdapter(Story).validate_python(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = in_words(error) if isinstance(error, ValidationError) else error
        raise KitError(f"{file} can't be read ({reason}). Mend it, or remove it to begin anew; what lies on Kaggle stays.") from None
    sessions = {session.ref for session in (story.running, story.furthest) if session}
    if story.ref != ref or sessions - {ref, f"{ref}-b"}:
        raise KitError(f"{file} tells of {', '.join(sorted({story.ref} | sessions))}, not of {ref}. Choose another --out.")
    return story


def save(story: Story, folder: Path) -> None:
    write_json(folder / FILE, asdict(story))
