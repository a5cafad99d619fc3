"""One session of a run: its folder, its log, its budget, and run.json, the account that every session adds to.

run.json is an account and no more: what a run may go on from is decided by its checkpoints, so a lost or damaged account costs its
lines and nothing else.
"""

import copy
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.config.competitions import Competition, competition
from kit.config.schema import Config
from kit.console import Log, counted
from kit.device import Device, choose_device
from kit.errors import KitError
from kit.events import FOLDER as EVENTS
from kit.events import Events
from kit.files import Busy, StorageError, locked, make_folder, sweep, write_durably, write_json
from kit.names import METRICS, PROVENANCE, RECORD, STUDENT, SUBMISSION, TEACHER, TIMING
from kit.train.budget import Budget
from kit.train.checkpoint import FOLDER as CHECKPOINTS
from kit.train.checkpoint import Checkpoints, begun_in, saved_in, steps_done
from kit.version import commit
from kit.world import World

VERSIONS = ("torch", "torchvision", "timm", "torch-pruning", "albumentations", "numpy", "pillow")
STALE = "was to be found there"  # what `kit chain` knows a session by that found fewer steps than it was told of


Watch = Callable[[str, list[dict[str, Any]]], str | None]  # (stage, its history, a dictionary an epoch) → why to stop here, or None


@dataclass
class Session:
    """What every stage needs.

    record: run.json's content. former: what it was before this session, None for a new run. begun_with: the digests in the newest
    checkpoint. identity: those of this session, which every checkpoint must agree with to be used.
    """

    config: Config
    out: Path
    log: Log
    budget: Budget
    device: Device
    record: dict[str, Any]
    begun_with: dict[str, str]
    former: dict[str, Any] | None = None
    identity: dict[str, str] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    suspended: str | None = None  # why the session ended before the plan did
    watch: Watch | None = None  # asked after each epoch; a reason ends the session
    world: World = field(default_factory=World)  # the processes that share the work; the first alone writes
    events: Events = field(init=False)

    def __post_init__(self) -> None:
        self.events = Events(self.out)

    @property
    def rules(self) -> Competition:
        return competition(self.config.competition)

    def owed(self, stage: str = "distil") -> tuple[str, ...]:
        """What time is kept for before a stage makes anything: a run that goes on has something to hand in, a new one from the end of
        distillation on."""
        return ("hand in",) if self.begun_with or stage != "distil" else ()

    def checkpoints(self, stage: str) -> Checkpoints:
        return Checkpoints(self.out, stage, dict(self.identity), self.config.settled().model_dump(mode="json"), self.log, self.world)

    def write(self) -> None:
        """run.json, with a digest of itself. An account is not worth a run: where it can't be written, the run goes on."""
        self.attempt(RECORD, lambda file: write_json(file, self.record | {"sha256": digest_of(self.record)}))

    def attempt(self, name: str, write: Callable[[Path], None]) -> None:
        if not self.world.first:
            return
        try:
            write(self.out / name)
        except (StorageError, OSError) as error:  # a line is appended, not replaced
            self.log(f"{name} is not up to date: {error}")

    def remember(self, what: str, digest: str, means: str) -> None:
        """Say what the run works with; later sessions must bring the same.

        Raises:
            KitError: the newest checkpoint was made with another.
        """
        before = self.begun_with.get(what, digest)
        if before != digest:
            raise KitError(
                f"{means} are not those that the run in {self.out} was begun with ({before} then, {digest} now). Bring "
                "those back to go on, or choose another --out."
            )
        self.identity[what] = self.record[what] = digest

    def note(self, stage: str, **facts: Any) -> None:
        """Add to a stage's entry in run.json."""
        self.record["stages"].setdefault(stage, {}).update(facts)
        self.write()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of the run: its state and the seconds it took, over all sessions, go to run.json, however it ends."""
        entry = self.record["stages"].setdefault(name, {})
        start, ended = time.perf_counter(), "half done"
        try:
            yield
            ended = "done"
        finally:
            entry["state"] = ended
            entry["seconds"] = round(entry.get("seconds", 0) + time.perf_counter() - start, 2)
            self.write()

    @contextmanager
    def account(self) -> Iterator[None]:
        """This session's line in run.json: when it began, how long it took, how it ended. Sets `state` if the run is over.

        One that ends by an error before it has changed what the run leaves, as a refused command does, adds its line and nothing else.
        """
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.budget.started))
        entry = {"started": began, "process": os.getpid(), "command": command(), "device": self.device.says}
        self.record["sessions"].append(entry)
        self.write()
        before = made_in(self.out)
        try:
            yield
            self.end(entry, "suspended" if self.suspended else "done")
        except BaseException as error:
            entry["error"] = f"{type(error).__name__}: {error}"
            if self.former and made_in(self.out) == before:
                state = self.former["state"].replace("running", "stopped")  # it was killed
                self.record = self.former | {"state": state, "sessions": [*self.former["sessions"], entry]}
                entry["ended"] = "refused" if isinstance(error, KitError) else "stopped"
            else:
                self.end(entry, "stopped")
            raise
        finally:
            entry["seconds"] = round(self.budget.elapsed(), 1)
            self.write()

    def end(self, entry: dict[str, Any], state: str) -> None:
        longest = self.budget.longest.items()
        measured = {kind: round(seconds, 3) for kind, seconds in longest if kind in ("hand in", "prune") or kind.endswith(" save")}
        self.record |= {"state": state, "measured": measured}
        entry["ended"] = self.suspended or state

    def write_metrics(self, stage: str, history: list[dict[str, Any]], seconds: dict[str, float] | None = None) -> None:
        """metrics.jsonl, a line an epoch, rewritten from the histories that the checkpoints hold: a resume leaves nothing twice.

        seconds: where the last epoch's time went. It goes to timing.jsonl, which only grows: an epoch that was done twice took its time
        twice, and no clock is in what must repeat.
        """
        self.histories[stage] = list(history)
        lines = [json.dumps({"stage": name} | line) for name, part in self.histories.items() for line in part]
        self.attempt(METRICS, lambda file: write_durably(file, "".join(line + "\n" for line in lines).encode()))
        if seconds:
            line = {"session": len(self.record["sessions"]), "stage": stage, "epoch": history[-1]["epoch"], **seconds}
            self.attempt(TIMING, lambda file: append(file, json.dumps(line)))
            self.attempt("tensorboard", lambda _: self.events.add(stage, history[-1]))


def made_in(out: Path) -> set[tuple[str, int]]:
    """(name, time of its last change) of the files that later sessions, or Kaggle, go by; those that can be had, should the disk fail."""
    made = set()
    with suppress(OSError):
        for file in [saved.path for saved in saved_in(out)] + [out / name for name in (TEACHER, STUDENT, SUBMISSION, PROVENANCE)]:
            if file.exists():
                made.add((file.name, file.stat().st_mtime_ns))
    return made


def read_by_stage(file: Path, *needed: str) -> dict[str, list[dict[str, Any]]]:
    """{stage: its lines} of metrics.jsonl or timing.jsonl, as sessions left it. A line that a kill left half written, or that lacks what is
    needed, is passed over; a file that can't be read has none."""
    stages: dict[str, list[dict[str, Any]]] = {}
    with suppress(OSError, UnicodeDecodeError):
        for text in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                line = json.loads(text)
                if line.keys() >= {"stage", *needed}:
                    stages.setdefault(line.pop("stage"), []).append(line)
    return stages


def append(file: Path, line: str) -> None:
    with open(file, "a", encoding="utf-8") as out:
        out.write(line + "\n")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold a run's folder, swept of what killed sessions were writing in it.

    Raises:
        KitError: another process is at work in it, with its number and command.
    """
    try:
        with locked(make_folder(out)):
            for folder in (out, out / CHECKPOINTS, *(out / EVENTS).glob("**")):
                sweep(folder)
            yield
    except Busy:
        session = (read_record(out, Log()) or {"sessions": []})["sessions"][-1:]
        who = "process {process}, since {started}: {command}".format(**session[0]) if session else "another process"
        raise KitError(f"{out} is in use by {who}. Wait for it, stop it, or choose another --out.") from None


def open_session(
    config: Config,
    out: Path,
    budget: Budget,
    log: Log,
    least_step: int = 0,
    world: World | None = None,
    watch: Watch | None = None,
) -> Session:
    """Begin a run in `out` or go on with the one that is there.

    Args:
        least_step: how far the run must be.
        watch: as `Session` has it.
    Raises:
        KitError: another run, or another config, is in the folder, with what differs; or it is not as far as it must be.
    """
    begun_with = begun_in(out, config.settled().model_dump(mode="json"), log)
    if least_step and (steps := steps_done(out, log)) < least_step:
        raise KitError(f"{out} is at step {steps:,}, step {least_step:,} {STALE}. Is the newest output attached?")
    record = read_record(out, log) if begun_with is not None else None
    former = copy.deepcopy(record)
    record = record or {"recipe": config.recipe, "stages": {}, "sessions": []}
    device = choose_device(record.get("choices"))
    if record.get("choices", device.choices()) != device.choices():
        log(f"note: another device than before ({record['choices']}): from here on the last bits may differ")
        record["measured"] = {}  # of that one
    record |= {
        "state": "running",
        "digest": config.digest(),
        "config": config.model_dump(mode="json"),
        "commit": commit(),
        "versions": versions(),
        "device": device.says,
        "choices": device.choices(),
    }
    for kind, seconds in record.get("measured", {}).items():
        budget.longest[kind] = seconds
    histories = read_by_stage(out / METRICS, "epoch", "step", "loss") if begun_with is not None else {}
    world = world or World()
    session = Session(config, out, log, budget, device, record, begun_with or {}, former, histories=histories, watch=watch, world=world)
    session.write()
    others = f", {session.world.size} processes" if session.world.size > 1 else ""
    log(f"{config.recipe} {config.digest()} on {device.says}, {counted(device.choices()['threads'], 'thread')}{others}")
    return session


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed of these packages: no recipe needs all of them."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def read_record(out: Path, log: Log) -> dict[str, Any] | None:
    """run.json's content. A damaged one is named, put aside, and begun anew."""
    file = out / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record.pop("sha256") == digest_of(record):
            return record
        reason = "its content is not what was written"
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise KitError(f"{file} can't be read ({error.strerror}). Mend its permissions; nothing was changed.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    log(f"{file} is damaged ({reason}); the account begins anew, the checkpoints are untouched")
    with suppress(OSError):
        file.rename(file.with_name("run.json.damaged"))
    return None


def digest_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def command() -> str:
    return shlex.join(sys.argv)
