"""One runner for all studies: what is finished is skipped, what is half done goes on, an arm that fails is written down and passed.

An arm is a run like any other, in its own folder, so a study may be stopped or killed at any moment as a run may. Arms share the decoded
photos, the teacher's logits where they store them, and the students of other arms that they say they need.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kit.config.competitions import competition
from kit.config.schema import Config
from kit.data.layout import find_dataset
from kit.duration import say_duration
from kit.errors import KitError
from kit.files import Busy, locked, make_folder, sha256_of
from kit.pipeline import run as run_pipeline
from kit.session import Watch, read_by_stage
from kit.stages.teacher import find_teacher
from kit.stages.teacher_file import file_of
from kit.studies.halving import Halving, import_optuna
from kit.studies.journal import Entry, append, furthest_of, made, read
from kit.studies.study import Arm, Study, replaced
from kit.train.budget import Budget
from kit.version import commit

Setting = Literal["tiny", "reduced", "full"]
LEAST = 30.0  # seconds of a budget that an arm is begun with
KEPT = ("validation_accuracy", "parameters", "bytes", "device", "versions", "photos")
ENDED = ("done", "stopped")  # states of an entry that has figures
GUESSER = 6  # epochs after which a tiny network is none any more
FLOAT = 4  # bytes of a weight that is not packed yet
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """journal: the file. runs: where the arms' folders are."""

    journal: Path
    runs: Path


@dataclass(frozen=True)
class Job:
    """An arm with a seed, ready to be run by any process that sees the same folders.

    digest: of its config and of those of the arms that it needs. needs: their folders. teachers, begin: as `pipeline.run` takes them.
    """

    study: str
    arm: str
    seed: int
    setting: Setting
    config: Config
    digest: str
    folder: Path
    needs: tuple[Path, ...]
    teachers: tuple[Path, ...]
    begin: Path | None


def in_turn(
    jobs: Sequence[Job],
    data: Path,
    cache: Path,
    budget: Budget,
    keep: Callable[[Entry], None],
    say: Say,
    lags: Callable[[Job], bool] = lambda job: False,
    watched: Callable[[Job], Watch | None] = lambda job: None,
) -> bool:
    """One job after the other in this process; whether all are done. lags: which are left out by now. watched: what may stop one."""
    began = budget.clock()
    for before, job in enumerate(jobs):
        if lags(job):
            continue
        watch = watched(job)
        if budget.stop or budget.left() < LEAST:
            say(f"the budget is over: {job.arm} with seed {job.seed} is next; the same command goes on from here")
            return False
        left = (budget.clock() - began) / before * (len(jobs) - before) if before else None
        say(f"{before + 1} of {len(jobs)}: {job.arm}, seed {job.seed}" + (f"; about {say_duration(left)} to go" if left else ""))
        entry = run_job(job, data, cache, budget, watch)
        if entry is None:
            say(f"{job.arm} with seed {job.seed} is half done; the same command goes on from here")
            return False
        keep(entry)
    return True


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
    halving: bool = False,
    how: Callable[..., bool] = in_turn,
) -> bool:
    """Every arm with every seed, the first seed of all arms first; whether all of it is done.

    Args:
        halving: arms that lag are stopped, all but the reference, and not run with further seeds. Without it those go on, too.
        how: in_turn, or spread.over_ray.

    Raises:
        KitError: another process is at it, or the journal is of other settings, photos or teachers; or arms that run at once are to be
            halved, or Optuna, which halves them, is not installed.
    """
    if halving and how is not in_turn:
        raise KitError("--halving holds an arm against those before it, and --ray runs them all at once: leave one of them out.")
    if halving:
        import_optuna()  # now, and not after the reference, which is never halved, has run for hours

    sources, done = sources_of(study, data, teachers), read(place.journal, study.name, say)
    refuse_other_source(done, setting, sources, place.journal)
    refuse_other_configs(study, done, setting, place.journal)

    def keep(entry: Entry) -> None:
        append(place.journal, entry | {"source": sources[0]})
        say(describe(entry))

    try:
        with locked(make_folder(place.runs)), locked(made(place.journal)):
            jobs = jobs_to_do(study, place, seeds, setting, say, teachers, halving)
            if halving:
                lags = lambda job: is_stopped(read(place.journal, study.name, say), job)  # noqa: E731
                return in_turn(jobs, data, cache, budget, keep, say, lags, lambda job: watch_of(study, job, place, say))
            return how(jobs, data, cache, budget, keep, say)
    except Busy:
        raise KitError(
            f"Another kit study is at work in {place.runs} or with {place.journal}. Wait for it, or choose another --out (and --docs, "
            "where it is given)."
        ) from None


def sources_of(study: Study, data: Path, teachers: Sequence[Path]) -> tuple[str, str]:
    """Digests, of sixteen hex digits, of what all arms learn from: the photos' names and sizes, of which an arm may take a share, and the
    teachers that are given, else the one that a run finds by itself. The second is without that one, as older journals have it."""
    rules = competition(study.arms[0].config.competition)
    dataset = find_dataset(data, rules.classes, None, 0)
    photos = (path for split in dataset.splits for path in split.paths)
    lines = sorted(f"{path.relative_to(dataset.root)} {path.stat().st_size if path.is_file() else 'a record'}" for path in photos)
    lines += [sha256_of(file_of(teacher)) for teacher in teachers]
    found = None if teachers else find_teacher(rules.teacher_file, dataset.root, [data])
    digest = lambda lines: hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]  # noqa: E731
    return digest([*lines, sha256_of(found)] if found else lines), digest(lines)


def refuse_other_source(done: list[Entry], setting: Setting, sources: Sequence[str], journal: Path) -> None:
    for entry in done:
        if entry["setting"] == setting and entry.get("source", sources[0]) not in sources:
            raise KitError(
                f"{journal} has {entry['arm']!r} of other photos or teachers: figures of both would stand in one table. Choose another "
                "--out (and --docs, where it is given)."
            )


def refuse_other_configs(study: Study, done: list[Entry], setting: Setting, journal: Path) -> None:
    """Of every seed and line, run now or not: all of them make the table.

    Raises:
        KitError: an arm of the study has ended with another config.
    """
    arms = {arm.name: arm for arm in study.arms}
    for entry in done:
        if entry["setting"] != setting or entry["state"] not in ENDED or entry["arm"] not in arms:
            continue
        if entry["digest"] != (now := digest_of(study, arms[entry["arm"]], entry["seed"], setting)):
            raise KitError(
                f"{journal} has {entry['arm']!r} with seed {entry['seed']} under another config ({entry['digest']}, now {now}): figures "
                "of both would stand in one table. Choose another --out (and --docs, where it is given)."
            )


def watch_of(study: Study, job: Job, place: Place, say: Say) -> Watch | None:
    """What looks at an arm after each epoch, beside those of its seed that have ended; nothing at one that others need."""
    if job.arm == study.reference or any(job.arm in arm.needs for arm in study.arms):
        return None
    furthest = furthest_of(read(place.journal, study.name, say), job.setting)
    alike = [entry for (_, seed), entry in furthest.items() if seed == job.seed and entry.get("curve")]
    return Halving(job.config.train.epochs, alike).watch()


def is_stopped(done: list[Entry], job: Job) -> bool:
    """Whether it lagged with an earlier seed."""
    return any((e["arm"], e["setting"], e["state"]) == (job.arm, job.setting, "stopped") for e in done)


def jobs_to_do(
    study: Study, place: Place, seeds: Sequence[int], setting: Setting, say: Say, teachers: Sequence[Path], halving: bool = False
) -> list[Job]:
    """What the journal does not hold yet, in order; and again an arm that another needs, where its run is not in the folder. halving: what
    was stopped stays so; else it goes on to its end."""
    done = read(place.journal, study.name, say)
    jobs = [job_of(study, arm, seed, setting, place, teachers) for seed in seeds for arm in study.arms]
    to_do: list[Job] = []
    needed: set[Path] = set()
    for job in reversed(jobs):
        missing = job.folder in needed and not (job.folder / "student.kit").is_file()
        if not over(done, job, halving) or missing:
            to_do.append(job)
            needed |= set(job.needs)
    return to_do[::-1]


def job_of(study: Study, arm: Arm, seed: int, setting: Setting, place: Place, teachers: Sequence[Path]) -> Job:
    digests = {name: digest_of(study, study.arm(name), seed, setting) for name in (arm.name, *arm.needs)}
    # an arm that was mended begins anew, in another folder
    folders = {name: place.runs / f"{name}-{seed}-{digest[:6]}" for name, digest in digests.items()}
    return Job(
        study=study.name,
        arm=arm.name,
        seed=seed,
        setting=setting,
        config=configured(study, arm, seed, setting),
        digest=digests[arm.name],
        folder=folders[arm.name],
        needs=tuple(folders[name] for name in arm.needs),
        teachers=(folders[arm.teacher],) if arm.teacher else tuple(teachers),
        begin=folders[arm.begins] if arm.begins else None,
    )


def configured(study: Study, arm: Arm, seed: int, setting: Setting) -> Config:
    config = {"tiny": lambda c: rehearsed(study.reduced(c)), "reduced": study.reduced, "full": lambda c: c}[setting](arm.config)
    return replaced(config, {"train.seed": seed})


def rehearsed(config: Config) -> Config:
    """Tiny. What learns from labels alone may have to teach others, and a teacher that guesses is refused: it gets all of the few photos,
    and epochs enough."""
    guesses = {} if config.taught else {"train.epochs": GUESSER, "data.subset": 1.0}
    return replaced(config.tiny(), guesses)


def digest_of(study: Study, arm: Arm, seed: int, setting: Setting) -> str:
    """Of an arm's config; where it needs other arms, of theirs too. Sixteen hex digits."""
    own = configured(study, arm, seed, setting).digest()
    if not arm.needs:
        return own
    others = [digest_of(study, study.arm(name), seed, setting) if name else "" for name in (arm.teacher, arm.begins)]
    return hashlib.sha256(" ".join([own, *others]).encode()).hexdigest()[:16]


def over(done: list[Entry], job: Job, halving: bool) -> bool:
    """Whether the journal holds this arm with this seed; one that failed is tried again."""
    mine, ended = (job.arm, job.seed, job.setting), ENDED if halving else ("done",)
    return any((entry["arm"], entry["seed"], entry["setting"]) == mine and entry["state"] in ended for entry in done)


def run_job(job: Job, data: Path, cache: Path, budget: Budget, watch: Watch | None = None) -> Entry | None:
    """The journal's line of an arm; None when the budget ended before it. watch: may stop it for good, after any epoch."""
    session = Budget(None if budget.seconds is None else budget.left(), budget.clock())  # an arm's session begins when the arm does
    lags: list[str] = []  # why the watch stopped it

    def look(stage: str, history: list[dict[str, Any]]) -> str | None:
        if watch and not lags and (reason := watch(stage, history)):
            lags.append(reason)
        return lags[0] if lags else None

    try:
        record = run_pipeline(
            job.config, data, job.folder, cache=cache, budget=session, teacher_files=job.teachers, begin=job.begin, watch=look
        )
    except KitError as error:
        if session.left() < LEAST:
            return None
        reason = str(error).replace(f"{job.folder.parent}/", "").replace(str(data), "the data's folder")  # no path of this machine
        return failed(job, reason)
    finally:
        budget.stop = budget.stop or (session.stop if session.stop not in lags else None)  # a signal may come while a laggard is handed in
    if record["state"] != "done" and not lags:
        return None
    entry = header(job) | ({"state": "stopped", "error": lags[0]} if lags else {"state": "done"})
    entry |= {"ended": now(), "curve": curve_of(job.folder)} | {name: record.get(name) for name in KEPT}
    return entry | stages_of(record)


def curve_of(folder: Path) -> list[float]:
    """Validation accuracy after each epoch of distillation."""
    lines = read_by_stage(folder / "metrics.jsonl").get("distil", [])
    return [round(line["accuracy"], 6) for line in lines if "accuracy" in line]


def header(job: Job) -> Entry:
    entry: Entry = {"study": job.study, "arm": job.arm, "seed": job.seed, "setting": job.setting, "digest": job.digest}
    return entry | {"epochs": job.config.train.epochs, "image_size": job.config.data.image_size, "commit": commit()}


def failed(job: Job, reason: str) -> Entry:
    return header(job) | {"state": "failed", "error": reason, "ended": now()}


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def stages_of(record: dict[str, Any]) -> Entry:
    """Accuracy, epoch, parameters and bytes after each stage, as float32 until they are packed, and the seconds of all sessions."""
    shown = ("accuracy", "epoch", "parameters", "widths", "bytes", "seconds", "packing")
    stages = {name: {key: stage[key] for key in shown if key in stage} for name, stage in record["stages"].items()}
    for stage in stages.values():
        if "parameters" in stage:
            stage.setdefault("bytes", FLOAT * stage["parameters"])
    return {"stages": stages, "seconds": round(sum(stage.get("seconds", 0) for stage in stages.values()), 1)}


def describe(entry: Entry) -> str:
    outcome = f"{entry['validation_accuracy']:.4f}, {entry['seconds']:.0f} s" if entry["state"] in ENDED else "failed"
    outcome += f": {entry['error']}" if "error" in entry else ""
    return f"{entry['study']}: {entry['arm']}, seed {entry['seed']}: {outcome}"
