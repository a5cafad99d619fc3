"""One runner for all studies: what is finished is skipped, what is half done goes on, an arm that fails is written down and passed.

An arm is a run like any other, in its own folder, so a study may be stopped or killed at any moment as a run may. Arms share the decoded
photos, the teacher's logits where they store them, and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.config.schema import Config
from kit.errors import KitError
from kit.files import Busy, locked, make_folder
from kit.pipeline import run as run_pipeline
from kit.studies.journal import Entry, append, read
from kit.studies.study import Arm, Study, replaced
from kit.train.budget import Budget
from kit.version import commit

Setting = Literal["tiny", "reduced", "full"]
LEAST = 30.0  # seconds of a budget that an arm is begun with
KEPT = ("validation_accuracy", "parameters", "bytes", "device", "versions", "photos")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """journal: the file. runs: where the arms' folders are."""

    journal: Path
    runs: Path


def run_study(
    study: Study,
    place: Place,
    data: Path,
    *,
    cache: Path,
    budget: Budget,
    seeds: Sequence[int],
    setting: Setting,
    say: Say,
    teachers: Sequence[Path],
) -> bool:
    """Every arm with every seed, the first seed of all arms first; whether all of it is done.

    Raises:
        KitError: another process is at it, or the journal is of other settings.
    """
    try:
        with locked(make_folder(place.runs)):
            done = read(place.journal, study.name, say)
            for seed in seeds:
                for arm in study.arms:
                    config = configured(study, arm, seed, setting)
                    if over(done, arm, seed, config, setting, place.journal):
                        continue
                    if budget.stop or budget.left() < LEAST:
                        say(f"the budget is over: {arm.name} with seed {seed} is next; the same command goes on from here")
                        return False
                    entry = run_arm(study, arm, seed, config, setting, place, data, cache, budget, teachers)
                    if entry is None:
                        say(f"{arm.name} with seed {seed} is half done; the same command goes on from here")
                        return False
                    append(place.journal, entry)
                    say(describe(entry))
    except Busy:
        raise KitError(f"Another kit study is at work in {place.runs}. Wait for it, or choose another --out.") from None
    return True


def configured(study: Study, arm: Arm, seed: int, setting: Setting) -> Config:
    config = {"tiny": lambda c: study.reduced(c).tiny(), "reduced": study.reduced, "full": lambda c: c}[setting](arm.config)
    return replaced(config, {"train.seed": seed})


def over(done: list[Entry], arm: Arm, seed: int, config: Config, setting: Setting, journal: Path) -> bool:
    """Whether the journal holds this arm with this seed; one that failed is tried again.

    Raises:
        KitError: it holds it with another config.
    """
    for entry in done:
        if (entry["arm"], entry["seed"], entry["setting"]) == (arm.name, seed, setting) and entry["state"] == "done":
            if entry["digest"] != config.digest():
                raise KitError(
                    f"{journal} has {arm.name!r} with seed {seed} under another config ({entry['digest']}, now {config.digest()}): figures "
                    "of both would stand in one table. Choose another --out, or move the journal away."
                )
            return True
    return False


def run_arm(
    study: Study,
    arm: Arm,
    seed: int,
    config: Config,
    setting: Setting,
    place: Place,
    data: Path,
    cache: Path,
    budget: Budget,
    teachers: Sequence[Path],
) -> Entry | None:
    """The journal's line of an arm; None when the budget ended before it."""
    entry: Entry = {"study": study.name, "arm": arm.name, "seed": seed, "setting": setting, "digest": config.digest()}
    entry |= {"epochs": config.train.epochs, "image_size": config.data.image_size, "commit": commit()}
    session = Budget(budget.seconds, budget.started)  # a run's times are its own
    try:
        out = place.runs / f"{arm.name}-{seed}-{config.digest()[:6]}"  # an arm that was mended begins anew
        record = run_pipeline(config, data, out, cache=cache, budget=session, teacher_files=teachers)
    except KitError as error:
        if session.left() < LEAST:
            return None
        return entry | {"state": "failed", "error": str(error), "ended": time.strftime("%Y-%m-%d %H:%M:%S")}
    finally:
        budget.stop = budget.stop or session.stop
    if record["state"] != "done":
        return None
    return (
        entry | {"state": "done", "ended": time.strftime("%Y-%m-%d %H:%M:%S")} | {name: record[name] for name in KEPT} | stages_of(record)
    )


def stages_of(record: dict[str, Any]) -> Entry:
    """Accuracy, epoch and parameters after each stage, and the seconds of all sessions."""
    shown = ("accuracy", "epoch", "parameters", "bytes", "seconds")
    stages = {name: {key: stage[key] for key in shown if key in stage} for name, stage in record["stages"].items()}
    return {"stages": stages, "seconds": round(sum(stage.get("seconds", 0) for stage in stages.values()), 1)}


def describe(entry: Entry) -> str:
    outcome = f"{entry['validation_accuracy']:.4f}, {entry['seconds']:.0f} s" if entry["state"] == "done" else f"failed: {entry['error']}"
    return f"{entry['study']}: {entry['arm']}, seed {entry['seed']}: {outcome}"
