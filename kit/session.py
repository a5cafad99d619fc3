"""One session of a run: its folder, its log, its budget, and run.json, the account that every session adds to."""

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.config.competitions import Competition, competition
from kit.config.schema import Config, differences
from kit.console import Log
from kit.device import Device
from kit.errors import KitError
from kit.files import make_folder, write_durably, write_json
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.version import commit

VERSIONS = ("torch", "torchvision", "timm", "torch-pruning", "albumentations", "numpy", "pillow")


@dataclass
class Session:
    """What every stage needs. record: run.json's content. identity: what a checkpoint must agree with to be used."""

    config: Config
    out: Path
    log: Log
    budget: Budget
    device: Device
    record: dict[str, Any]
    identity: dict[str, str] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    suspended: str | None = None  # why the session ended before the plan did

    @property
    def rules(self) -> Competition:
        return competition(self.config.competition)

    def checkpoints(self, stage: str) -> Checkpoints:
        return Checkpoints(self.out / "checkpoints", stage, dict(self.identity), self.log)

    def write(self) -> None:
        write_json(self.out / "run.json", self.record)

    def remember(self, what: str, digest: str, means: str) -> None:
        """Write down what the run was begun with; a later session must bring the same, and so must a checkpoint.

        Raises:
            KitError: it brings another.
        """
        before = self.record.setdefault(what, digest)
        if before != digest:
            raise KitError(
                f"{means} are not those that the run in {self.out} was begun with ({before} then, {digest} now). Choose another --out."
            )
        self.identity = {"config": self.config.digest(), **self.identity, what: digest}

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
        """This session's line in run.json: when it began, how long it took, how it ended. Sets `state` if the run is over."""
        entry = {"started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.budget.started)), "command": command()}
        self.record["sessions"].append(entry)
        try:
            yield
            self.record["state"] = "suspended" if self.suspended else "done"
        except BaseException as error:
            self.record["state"] = "stopped"
            entry["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            entry |= {"seconds": round(self.budget.elapsed(), 1), "ended": self.suspended or self.record["state"]}
            self.write()

    def write_metrics(self, stage: str, history: list[dict[str, Any]]) -> None:
        """metrics.jsonl, a line an epoch, rewritten from the histories that the checkpoints hold: a resume leaves nothing twice."""
        self.histories[stage] = list(history)
        lines = [json.dumps({"stage": name} | line) for name, part in self.histories.items() for line in part]
        write_durably(self.out / "metrics.jsonl", "".join(line + "\n" for line in lines).encode())


def open_session(config: Config, out: Path, budget: Budget, device: Device) -> Session:
    """Begin a run in `out` or go on with the one that is there.

    Raises:
        KitError: another run, or another config, is in the folder, with what differs.
    """
    make_folder(out)
    record, begun = read_record(out), any((out / "checkpoints").glob("*.pt"))
    if record and begun:
        refuse_other_run(record, config, out)
    else:  # nothing that another config could spoil
        record = {"recipe": config.recipe, "state": "running", "stages": {}, "sessions": []}
    record |= {
        "state": "running",
        "digest": config.digest(),
        "config": config.model_dump(mode="json"),
        "commit": commit(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "device": device.says,
    }
    session = Session(config, out, Log(out / "log.txt"), budget, device, record)
    session.write()
    return session


def read_record(out: Path) -> dict[str, Any] | None:
    try:
        return json.loads((out / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any((out / "checkpoints").glob("*.pt")):
            raise KitError(f"{out} holds checkpoints but no run.json, so whose they are can't be told. Choose another --out.") from None
        return None
    except ValueError as error:
        raise KitError(f"{out / 'run.json'} can't be read ({error}). Choose another --out.") from None


def refuse_other_run(record: dict[str, Any], config: Config, out: Path) -> None:
    changed = differences(record["config"], config.model_dump(mode="json"))
    if not changed:
        return
    shown = "; ".join(changed[:6]) + (f"; and {len(changed) - 6} more" if len(changed) > 6 else "")
    raise KitError(
        f"{out} holds a run of {record['recipe']!r} with another config: {shown}. Choose another --out, or run it as it was begun."
    )


def command() -> str:
    return " ".join(sys.argv)
