"""Checkpoints that a kill, a full disk or a flipped bit can't take away.

A file is named `<stage>-<step>-<sha256>.pt`, a stage's result `<stage>-<step>-done-<sha256>.pt`, and gets that name when it is whole.
The two newest generations of a stage are kept. What a run that diverged went back from, `<stage>-<step>-withdrawn-<sha256>.pt`, counts as
older than the others: from there it comes to the same place again. Reading compares the digest, loads weights only, and falls back a
generation, aloud; what is damaged is put aside as `….damaged`, what a disk or mount won't give stays where it is. Equal states give equal
bytes, so a run that was killed can be compared with one that was not by the names of its files alone.
"""

import hashlib
import io
import math
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.config.differences import differences
from kit.config.stages import AFTER_DISTILLING, REPEATED, STAGES, kind_of
from kit.console import Log
from kit.device import shortages_named
from kit.errors import KitError, in_brief
from kit.files import make_folder, write_durably
from kit.world import World

FOLDER = "checkpoints"
FORMAT = 2  # of what a file holds; one of another format is refused
GENERATIONS = 2
NAME = re.compile(
    r"(?P<stage>[a-z]+)(?P<number>\d*)-(?P<step>\d{9})(?P<done>-done)?(?P<withdrawn>-withdrawn)?-(?P<digest>[0-9a-f]{16})\.pt"
)


@dataclass(frozen=True)
class Saved:
    """A checkpoint's file, as its name describes it."""

    path: Path
    stage: str
    step: int
    done: bool
    withdrawn: bool
    digest: str

    @property
    def kind(self) -> str:
        return kind_of(self.stage)

    @property
    def age(self) -> tuple[int, float, int, bool, int, bool]:
        """Sorts a run's checkpoints, oldest first: all steps of what is repeated come in the place of its first stage."""
        number = int(self.stage.removeprefix(self.kind) or 0) or math.inf
        first = REPEATED[0] if self.kind in REPEATED else self.kind
        return STAGES.index(first), number, STAGES.index(self.kind), not self.withdrawn, self.step, self.done


class Damaged(Exception):
    """Why a file is not what was written."""


class Unread(Exception):
    """Why a file can't be read now: a disk, a mount or a permission, and no word on what it holds."""


class Checkpoints:
    """The checkpoints of one stage of the run in `out`.

    identity: what a checkpoint must agree with to be used, such as the photos' and the teacher's digests.
    config: dumped, in full, so that a refusal can say what differs. world: its first process reads and writes for all.
    """

    def __init__(self, out: Path, stage: str, identity: dict[str, str], config: dict[str, Any], log: Log, world: World | None = None):
        self.out, self.stage, self.identity, self.config, self.log = out, stage, identity, config, log
        self.world = world or World()
        self.folder = out / FOLDER
        self.world.lead(lambda: make_folder(self.folder))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """A new generation. The older ones are there until it is whole.

        Raises:
            StorageError: for example a full disk; what was saved before is untouched.
        """
        return self.world.lead(lambda: self.write(step, state, done=False))

    def finish(self, step: int, state: dict[str, Any]) -> Path:
        """The stage's result, in the place of the oldest generation."""
        return self.world.lead(lambda: self.write(step, state, done=True))

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, None where there is none yet."""
        return self.world.lead(lambda: self.newest(done=False))

    def result(self) -> dict[str, Any] | None:
        """What `finish` was given, None before."""
        return self.world.lead(lambda: self.newest(done=True))

    def finished(self) -> dict[str, Any]:
        """The same of a stage that is over.

        Raises:
            KitError: its result is gone.
        """
        if (result := self.result()) is None:
            raise KitError(f"The result of {self.stage} is gone from {self.folder}. Run the same command again: it makes it anew.")
        return result

    def clear(self) -> None:
        """Remove all but the result."""
        for saved in self.files() if self.world.first else ():
            if not saved.done:
                saved.path.unlink()

    def files(self) -> list[Saved]:
        """This stage's files, oldest first."""
        return [saved for saved in saved_in(self.out) if saved.stage == self.stage]

    def write(self, step: int, state: dict[str, Any], done: bool) -> Path:
        content = to_bytes(
            {"format": FORMAT, "stage": self.stage, "step": step, "identity": self.identity, "config": self.config, "state": state}
        )
        name = f"{self.stage}-{step:09d}{'-done' if done else ''}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
        write_durably(self.folder / name, content)
        for saved in self.files():  # those ahead are what was taken back
            if (saved.done, saved.withdrawn) == (done, False) and saved.step >= step and saved.path.name != name:
                saved.path.rename(saved.path.with_name(saved.path.name.replace(saved.digest, f"withdrawn-{saved.digest}")))
        for old in self.files()[:-GENERATIONS]:
            old.path.unlink()
        return self.folder / name

    def newest(self, done: bool) -> dict[str, Any] | None:
        for saved, content in whole([saved for saved in reversed(self.files()) if saved.done == done], self.log):
            refuse_foreign(saved.path, content, self.identity, self.config)
            return content["state"]
        return None


def saved_in(out: Path) -> list[Saved]:
    """All checkpoints that a run has in its folder, oldest first. Those of a copy without folders, as a data set is, lie beside its other
    files, also once it has gone on."""
    places = [place for place in (out, out / FOLDER) if place.is_dir()]
    found = [saved for place in places for path in place.iterdir() if (saved := described(path))]
    return sorted(found, key=lambda saved: (saved.age, saved.digest))


def described(path: Path) -> Saved | None:
    """What a file's name says of it; None where it is no checkpoint's."""
    if (m := NAME.fullmatch(path.name)) and m["stage"] in (REPEATED if m["number"] else STAGES):
        return Saved(path, m["stage"] + m["number"], int(m["step"]), bool(m["done"]), bool(m["withdrawn"]), m["digest"])
    return None


def run_of(checkpoint: Path) -> Path:
    """The folder of its run. A data set may hold an output without folders."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else checkpoint.parent


def steps_done(out: Path, log: Log) -> int:
    """How far a run is: the steps of all its stages, by the newest checkpoints that are whole."""
    return steps_in(saved for saved, _ in whole(reversed(saved_in(out)), log, load=False))


def steps_in(files: Iterable[Saved]) -> int:
    """The steps of all stages, by the newest of these files."""
    return sum({saved.stage: saved.step for saved in sorted(files, key=lambda saved: saved.age)}.values())


def whole(files: Iterable[Saved], log: Log, load: bool = True) -> Iterator[tuple[Saved, dict[str, Any]]]:
    """The files that are what was written, with their content. The others are named, and those that are damaged put aside.

    Args:
        load: as `read` takes it.
    Raises:
        KitError: none is, and one can't be read: a mount that fails for a minute is no reason to begin anew.
    """
    unread, any_whole = "", False
    for saved in files:
        try:
            content = read(saved, load)
        except Unread as failure:
            unread = f"{saved.path} can't be read ({failure})"
            log(f"{unread}; going back a generation")
            continue
        except Damaged as damage:
            log(f"{saved.path} is damaged ({damage}); going back a generation")
            with suppress(OSError):  # a read-only folder
                saved.path.rename(saved.path.with_name(f"{saved.path.name}.damaged"))
            continue
        any_whole = True
        yield saved, content
    if unread and not any_whole:
        raise KitError(
            f"{unread}, and there is no other to go on from. Nothing is begun anew: bring its disk or mount back or mend its permissions, "
            "and run the same command again. Only where it is lost for good, move it away."
        )


def read(saved: Saved, load: bool = True) -> dict[str, Any]:
    """A checkpoint's content. Weights and plain values only: whatever else a pickle would do is not done.

    Args:
        load: False: nothing, once its bytes are those that it was named for. Loading takes forty times as long as comparing them.
    Raises:
        Damaged: its bytes are not those that it was named for.
        Unread: they can't be had now.
        KitError: it is whole and was not written by this version of the kit.
    """
    try:
        content = saved.path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise Damaged(error.strerror) from None
    except OSError as error:
        raise Unread(error.strerror) from None
    if hashlib.sha256(content).hexdigest()[:16] != saved.digest:
        raise Damaged("its sha256 is not its name's")
    if not load:
        return {}
    try:
        with shortages_named():
            value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        fits = value.get("format") == FORMAT
    except KitError:
        raise
    except Exception as error:  # bytes that are no checkpoint fail in the restricted unpickler in any way they like
        raise KitError(
            f"{saved.path} is no checkpoint of the kit and is not loaded ({in_brief(error)}). Remove it, or choose another --out."
        ) from None
    if not fits:
        raise KitError(f"{saved.path} was written by another version of the kit. Go on with that version, or choose another --out.")
    if (value["stage"], value["step"]) != (saved.stage, saved.step):
        raise Damaged(f"it is step {value['step']} of {value['stage']}, its name says otherwise")
    return value


def weights_in(state: dict[str, Any]) -> dict[str, Tensor]:
    """What a stage's state would be deployed with: the teacher's result, the best epoch's weights, before one has ended the newest."""
    if "weights" in state:
        return state["weights"]
    return state["best"]["weights"] or state.get("ema") or state["network"]


def refuse_foreign(path: Path, content: dict[str, Any], identity: dict[str, str], config: dict[str, Any]) -> None:
    """Let through what this run may go on from: an equal config but for what is harmless, and the same photos and teacher.

    Raises:
        KitError: with all that differs.
    """
    changed = differences(content["config"], config)
    changed += [
        f"{name}: {content['identity'][name]} → {now}" for name, now in identity.items() if content["identity"].get(name, now) != now
    ]
    if changed:
        shown = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
        kept = distilled_in(path.parent) if all(field.startswith(AFTER_DISTILLING) for field in changed) else None
        keeping = f", with --begin {shlex.quote(str(kept))}, which keeps the student that is trained" if kept else ""
        begun = f"{run_of(path)} holds a run that was begun otherwise ({path.name}): {shown}"
        raise KitError(f"{begun}. Choose another --out{keeping}, or run it as it was begun.")


def distilled_in(out: Path) -> Path | None:
    """The student of a run from before it was pruned; None where it is still trained."""
    return next((saved.path for saved in saved_in(out) if saved.stage == "distil" and saved.done), None)


def begun_in(out: Path, config: dict[str, Any], log: Log) -> dict[str, str] | None:
    """The digests in the newest checkpoint that is whole, None where there is none.

    Raises:
        KitError: it is of another config.
    """
    for saved, content in whole(reversed(saved_in(out)), log):
        refuse_foreign(saved.path, content, {}, config)
        return content["identity"]
    return None


def to_bytes(value: Any) -> bytes:
    """`torch.save` in memory: to a full disk it would raise a RuntimeError without a file's name."""
    buffer = io.BytesIO()
    torch.save(canonical(value), buffer)
    return buffer.getvalue()


def canonical(value: Any) -> Any:
    """An equal value that always pickles to the same bytes.

    A pickle refers back to an object that it has met, so a dictionary that was loaded (whose equal strings are several objects) gives
    other bytes than one that was built here; and a tensor brings its device and the rest of its storage. The order of its memory is
    kept: an optimiser's moments must lie as its weights do.
    """
    match value:
        case Tensor():
            return value.detach().cpu().clone()
        case dict():
            return {canonical(key): canonical(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(canonical(item) for item in value)
        case str():
            return sys.intern(value)
    return value
