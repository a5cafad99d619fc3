"""`kit plan`: how many hours and sessions a run needs on this machine, or what plan fits; by doing one epoch of everything.

The answer is a plan to begin with. A run's schedule is fixed by its epochs and is never bent to the time that is left.
"""

import bisect
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from kit.config.override import override
from kit.config.schema import Config
from kit.console import console, counted
from kit.duration import say_duration
from kit.errors import KitError
from kit.files import make_folder
from kit.pipeline import run
from kit.stages.student import later_plans
from kit.train.budget import EXIT, Budget
from kit.train.pace import KINDS


@dataclass(frozen=True)
class Measured:
    """Seconds on this machine. epoch: of each stage that trains. overhead: of every session, for all that is not an epoch."""

    epoch: dict[str, float]
    overhead: float


def measure(config: Config, data: Path, cache: Path, teachers: Sequence[Path]) -> Measured:
    """One epoch of every stage and the whole finish, in a folder below the cache that is thrown away."""
    budget, shortest = Budget(None), config.shortened(1)
    last = list(epochs_of(shortest))[-1]

    def hush(stage: str, history: list[dict[str, Any]]) -> None:
        """What is said after the last epoch is of files that will be gone."""
        console.quiet = bool(history) and stage == last

    with tempfile.TemporaryDirectory(prefix=".plan-", dir=make_folder(cache)) as folder:  # a small /tmp holds no teacher
        try:
            run(shortest, data, Path(folder), cache=cache, budget=budget, teacher_files=teachers, watch=hush)
        finally:
            console.quiet = False
    if budget.stop:
        raise KitError(f"{budget.stop} before everything was measured. The same command begins anew.")
    seconds = {stage: sum((budget.spent[f"{stage} {kind}"] for kind in KINDS), 0.0) for stage in epochs_of(config)}
    epoch = {stage: spent for stage, spent in seconds.items() if spent}
    return Measured(epoch, budget.elapsed() + EXIT - sum(epoch.values()))


def epochs_of(config: Config) -> dict[str, int]:
    trained = {"teacher": config.teacher.train, "distil": config.train} | later_plans(config)
    return {stage: plan.epochs for stage, plan in trained.items()}


def training(config: Config, measured: Measured) -> float:
    """Seconds of all epochs."""
    return sum(epochs_of(config)[stage] * seconds for stage, seconds in measured.epoch.items())


def sessions(config: Config, measured: Measured, budget: float) -> int:
    """Sessions of `budget` seconds that the run takes."""
    if budget <= measured.overhead:
        raise KitError(
            f"A session of {say_duration(budget)} leaves no time to train: {say_duration(measured.overhead)} of it go into starting, "
            "photos, the teacher, the rehearsal and the hand-in. Give a longer --budget."
        )
    return math.ceil(training(config, measured) / (budget - measured.overhead))


def total(config: Config, measured: Measured, budget: float) -> float:
    """Seconds of all sessions."""
    return training(config, measured) + sessions(config, measured, budget) * measured.overhead


def fit_epochs(config: Config, measured: Measured, budget: float, quota: float) -> Config:
    """The recipe with as many epochs of distillation as the quota holds.

    Raises:
        KitError: not even one fits.
    """
    most = range(1, math.ceil(quota / measured.epoch["distil"]) + 1)
    tried = lambda epochs: config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})  # noqa: E731
    fitting = bisect.bisect_right(most, quota, key=lambda epochs: total(tried(epochs), measured, budget))
    if not fitting:
        parts = [f"{stage} {say_duration(epochs_of(tried(1))[stage] * seconds)}" for stage, seconds in measured.epoch.items()]
        raise KitError(
            f"Not one epoch of distillation fits into {say_duration(quota)}: with one the run takes "
            f"{say_duration(total(tried(1), measured, budget))} (epochs: {', '.join(parts)}; all else, each session: "
            f"{say_duration(measured.overhead)})."
        )
    try:
        return override(config, [f"train.epochs={fitting}"])
    except KitError as error:
        held = f"{say_duration(quota)} hold no more than {fitting} of distillation's epochs"
        raise KitError(f"{held}, too few for this recipe: {error}") from None


def describe(config: Config, measured: Measured, budget: float, quota: float) -> Iterator[Table | str]:
    """What to print: a table of the stages, and what it comes to."""
    table = Table("stage", "epochs", "s / epoch", "in all", show_edge=False)
    for stage, seconds in measured.epoch.items():
        epochs = epochs_of(config)[stage]
        table.add_row(stage, f"{epochs}", f"{seconds:.1f}", say_duration(epochs * seconds))
    table.add_row("all else, each session", "", "", say_duration(measured.overhead))
    yield table
    number, whole = sessions(config, measured, budget), total(config, measured, budget)
    waits = config.train.patience
    patience = f"; less where {counted(waits, 'epoch brings', 'epochs bring')} nothing better" if waits else ""
    yield f"{say_duration(whole)} in {counted(number, 'session')} of {say_duration(budget)}{patience}"
    share = whole / quota
    yield f"{share:.0%} of {say_duration(quota)}" + ("" if share <= 1 else f": {math.ceil(share)} quotas; --epochs auto finds what fits")
