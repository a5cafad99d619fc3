"""Tables of a study, made of its journal alone: mean and spread over seeds, whether an arm is told apart from the reference, and whether
what was published says the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean as mean
from statistics import stdev
from typing import Any

import numpy as np
import pandas as pd

from kit.config.stages import kind_of
from kit.studies.journal import Entry, furthest_of
from kit.studies.study import Arm, Study

SURE = 0.05  # the share of equal arms that are told apart all the same


@dataclass(frozen=True)
class Row:
    """An arm's figures, means over seeds.

    by_seed: accuracies, in order. pace: seconds of an epoch of distillation, its validation included, of the seed that was disturbed
    least. teacher: its accuracy, None for labels alone. stages: of the run, as the journal has them, by seed. failed: by seed, why it has
    no accuracy.
    """

    arm: Arm
    by_seed: dict[int, float]
    parameters: float | None
    bytes: float | None
    seconds: float | None
    pace: float | None
    teacher: float | None
    stages: tuple[dict[str, dict[str, Any]], ...]
    failed: dict[int, str]

    @property
    def accuracies(self) -> tuple[float, ...]:
        return tuple(self.by_seed.values())

    @property
    def mean(self) -> float | None:
        return mean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None


def why(entry: Entry) -> str:
    """There is no accuracy at the plan's end."""
    if entry["state"] == "failed":
        return f"failed: {entry['error']}"
    return f"stopped at {max(entry['curve'], default=0):.4f}: {entry['error']}"


def pace_of(entry: Entry) -> float | None:
    seconds, epochs = entry.get("stages", {}).get("distil", {}).get("seconds"), len(entry.get("curve", ()))
    return seconds / epochs if seconds and epochs else None


def rows(study: Study, entries: list[Entry], setting: str) -> list[Row]:
    """A row for each arm that has ended at least once, the best first."""
    made, furthest = [], sorted(furthest_of(entries, setting).items())
    for arm in study.arms:
        own = [entry for (name, _), entry in furthest if name == arm.name]
        done = [entry for entry in own if entry["state"] == "done"]
        failed = {entry["seed"]: why(entry) for entry in own if entry["state"] != "done"}
        if not done and not failed:
            continue
        sizes = {name: mean([entry[name] for entry in done]) if done else None for name in ("parameters", "bytes", "seconds")}
        stages = tuple(entry.get("stages", {}) for entry in done)
        paces = [pace for pace in map(pace_of, done) if pace]
        # a teacher beside the photos is looked at even where none is asked
        teachers = [each["teacher"]["accuracy"] for each in stages if arm.config.taught and "accuracy" in each.get("teacher", {})]
        made.append(
            Row(
                arm=arm,
                by_seed={entry["seed"]: entry["validation_accuracy"] for entry in done},
                **sizes,
                pace=min(paces, default=None),
                teacher=mean(teachers) if teachers else None,
                stages=stages,
                failed=failed,
            )
        )
    return sorted(made, key=lambda row: -(row.mean or 0))


@dataclass(frozen=True)
class Noise:
    """What chance alone makes of an accuracy: its standard deviation, and how many degrees of freedom that is known by."""

    deviation: float
    freedom: int


def noise_of(made: Sequence[Row]) -> Noise:
    """What is left of the accuracies when every arm and every seed has its own effect, by least squares.

    Arms × seeds is a block design: a seed chooses the same photos, order and views for all arms, and may lift them all by points. Two or
    three seeds of one arm know little about chance, those of all arms together enough. Arms that give the same under every seed that both
    have are one (JPEGs from one worker or two) and count once: they would pass for chance that strikes twice alike.
    """
    distinct = {frozenset(row.by_seed.items()): row for row in made if len(row.by_seed) > 1}
    counted = [row for own, row in distinct.items() if not any(own < other for other in distinct)]
    lines = [(row.arm.name, str(seed), accuracy) for row in counted for seed, accuracy in row.by_seed.items()]
    table = pd.DataFrame(lines, columns=["arm", "seed", "accuracy"])
    effects, accuracies = pd.get_dummies(table[["arm", "seed"]]).to_numpy(float), table["accuracy"].to_numpy(float)
    if not len(table):
        return Noise(0.0, 0)
    left = accuracies - effects @ np.linalg.lstsq(effects, accuracies, rcond=None)[0]
    freedom = len(table) - int(np.linalg.matrix_rank(effects))
    return Noise(float(np.sqrt(np.square(left).sum() / freedom)) if freedom else 0.0, freedom)


def apart(study: Study, row: Row, by_name: dict[str, Row], noise: Noise) -> str:
    """How an arm stands to the reference, or to the arm that it names: the difference in points, and whether seeds tell them apart."""
    if row.arm.name == study.reference:
        return "reference"
    other = by_name.get(row.arm.against or study.reference)
    if other is None or row.mean is None or other.mean is None:
        return ""
    points = f"{100 * difference(row, other):+.2f}" + (f" against {other.arm.name}" if row.arm.against else "")
    if min(len(row.by_seed), len(other.by_seed)) < 2:
        return f"{points} (one seed)"
    return points if separated(row, other, noise) else f"{points} (unseparated)"


def difference(row: Row, other: Row) -> float:
    """Of the means over the seeds that both have been run with; over all where they share none."""
    seeds = row.by_seed.keys() & other.by_seed.keys()
    ours, theirs = ([each.by_seed[seed] for seed in seeds or each.by_seed] for each in (row, other))
    return mean(ours) - mean(theirs)


def separated(row: Row, other: Row, noise: Noise) -> bool:
    """By a t-test of the difference over the seeds that both have."""
    from scipy.stats import t

    shared = len(row.by_seed.keys() & other.by_seed.keys())
    if not (shared and noise.freedom):
        return False
    return abs(difference(row, other)) > t.ppf(1 - SURE / 2, noise.freedom) * noise.deviation * (2 / shared) ** 0.5


def spelled(row: Row) -> str:
    """Mean and spread, and what became of the seeds that are not in them."""
    failed = "; ".join(f"seed {seed} {why}" for seed, why in row.failed.items())
    if row.mean is None:
        return failed
    figure = f"{row.mean:.4f}" + (f" ± {row.spread:.4f}" if row.spread is not None else "")
    return f"{figure} of the seeds that went to the end; {failed}" if failed else figure


def frame(study: Study, made: list[Row]) -> pd.DataFrame:
    """The study's table, in words."""
    by_name, noise = {row.arm.name: row for row in made}, noise_of(made)
    teachers = {f"{row.teacher:.4f}" for row in made if row.teacher is not None}
    return pd.DataFrame(
        {
            "arm": row.arm.name,
            "what": row.arm.says,
            "published": row.arm.published,
            "parameters": f"{row.parameters:,.0f}" if row.parameters else "",
            "bytes": f"{row.bytes:,.0f}" if row.bytes else "",
            "teacher": f"{row.teacher:.4f}" if row.teacher is not None and len(teachers) > 1 else "",
            "accuracy": spelled(row),
            "seeds": " ".join(f"{accuracy:.4f}" for accuracy in row.accuracies),
            "against the reference": apart(study, row, by_name, noise),
            "seconds an epoch": f"{row.pace:.1f}" if study.paced and row.pace else "",
            "minutes": f"{row.seconds / 60:.1f}" if row.seconds else "",
        }
        for row in made
    )


def agreement(study: Study, made: list[Row]) -> pd.DataFrame:
    """Each published difference beside the measured one, where both sides of both are there: of an arm to the one that it is held against,
    and to the one that it began with, or else that taught it."""
    by_name, noise, lines = {row.arm.name: row for row in made}, noise_of(made), []
    for row in made:
        taught_by = "" if row.arm.begins else row.arm.teacher
        for name in dict.fromkeys((row.arm.against or study.reference, row.arm.begins, taught_by)):
            other = by_name.get(name)
            if other is None or other is row or None in (row.mean, other.mean) or not (row.arm.published and other.arm.published):
                continue
            published, measured = float(row.arm.published) - float(other.arm.published), difference(row, other)
            lines.append(
                {
                    "arm": row.arm.name,
                    "against": name,
                    "published": f"{100 * published:+.2f}",
                    "measured": f"{100 * measured:+.2f}",
                    "": verdict(row, other, noise, published * measured > 0),
                }
            )
    return pd.DataFrame(lines)


def verdict(row: Row, other: Row, noise: Noise, alike: bool) -> str:
    if min(len(row.by_seed), len(other.by_seed)) < 2:
        return "one seed"
    if not separated(row, other, noise):
        return "unseparated"
    return "agrees" if alike else "**disagrees**"


def steps(made: list[Row]) -> pd.DataFrame:
    """Accuracy, parameters and bytes after each stage of the arms that prune; means over seeds. Bytes are those of float32 until the
    student is packed."""
    lines = []
    for row in made:
        kinds = [stage for stage in (row.stages[0] if row.stages else {}) if row.stages[0][stage].get("parameters") and stage != "teacher"]
        if not any(kind_of(stage) == "prune" for stage in kinds):
            continue
        for stage in kinds:
            found = [each[stage] for each in row.stages if stage in each]
            accuracies = [each["accuracy"] for each in found if each.get("accuracy") is not None]
            lines.append(
                {
                    "arm": row.arm.name,
                    "stage": stage,
                    "accuracy": f"{mean(accuracies):.4f}" if accuracies else "",
                    "parameters": f"{round(mean([each['parameters'] for each in found])):,}",
                    "bytes": f"{round(mean([each['bytes'] for each in found])):,}",
                }
            )
    return pd.DataFrame(lines)


def packing(made: list[Row]) -> pd.DataFrame:
    """What packing changed, of the centre crop: points lost and the share of equal answers, mean and spread over seeds. Empty for runs
    from before that was measured."""
    lines = []
    for row in made:
        found = pd.DataFrame([each["quantize"]["packing"] for each in row.stages if "packing" in each.get("quantize", {})])
        if found.empty:
            continue
        lost, bits = 100 * (found["before"] - found["after"]), row.arm.config.pack
        spread = f" ± {lost.std():.2f}" if len(found) > 1 else ""
        lines.append(
            {
                "arm": row.arm.name,
                "bits": f"{bits.bits}, {bits.method}",
                "bytes": f"{row.bytes:,.0f}",
                "points lost": f"{lost.mean():z.2f}{spread}",
                "equal answers": f"{found['equal'].mean():.2%}, at least {found['equal'].min():.2%}",
            }
        )
    return pd.DataFrame(lines)
