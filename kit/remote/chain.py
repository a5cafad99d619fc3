"""`kit chain`: push, wait, look how far the run is, attach its output, push again, until the run is done.

All that it knows between two commands is in one small file, so it may be stopped or killed at any moment and started again: a session
that is still running is waited for, not started a second time. A copy of the furthest output is kept beside that file.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from kit.config.override import in_words
from kit.errors import KitError
from kit.files import Busy, locked, make_folder, write_json
from kit.remote.bundle import compose, read_head
from kit.remote.client import Kaggle, Refused
from kit.remote.datasets import upload
from kit.remote.output import mirror, session_record
from kit.remote.push import (
    OVER,
    PATIENCE,
    TAIL,
    Dropped,
    Ended,
    Pushed,
    digest_of,
    newest_version,
    push,
    read_metadata,
    session_status,
    wait_for,
)
from kit.train.checkpoint import described, steps_in

LIMIT = 9 * 3600.0  # seconds after which Kaggle ends a session
LATE = 0.95  # of the limit: the last look at a session that it ends, and the last line of its log, come before
LIMIT_WORDS = re.compile(r"time limit|timed out|timeout|exceeded.*(time|duration)", re.IGNORECASE)  # of Kaggle, of a session that it ended
STALE_WORDS = "was to be found there"  # in what a session says that was told of a later step than it found
SLUG, STATE = 50, "-state"  # characters of a data set's title at most; what its slug ends with
STILL = 2  # sessions without progress after which a person should look
Say = Callable[[str], None]
Via = Literal["self", "pair", "dataset"]
VIAS: tuple[Via, ...] = get_args(Via)


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


def chain(
    kernel: Path,
    kaggle: Kaggle,
    say: Say,
    *,
    folder: Path,
    max_sessions: int | None = None,
    until: int | None = None,
    timeout: int | None = None,
    via: Via | None = None,
    anew: bool = False,
) -> Story:
    """Sessions of a kernel until its run is done.

    Args:
        folder: where the chain's file and the furthest output are kept.
        anew: begin at the run's first step, whatever lies on Kaggle that the chain did not push.
        max_sessions: stop after as many, those of earlier starts included; None for no limit.
        until: stop when the run is at this step.
        timeout: after which Kaggle ends a session, seconds.
        via: "self", the kernel is its own source; "pair", two kernels take turns; "dataset", a private data set's newest version. None:
            as the chain was begun. Where Kaggle drops the source, the next of these is tried.
    Raises:
        KitError: a session failed or was cancelled, two in a row brought nothing, someone else pushed the kernel or deleted it, the week's
            GPU time is used up, or Kaggle refused: each with the reason and, of a failure, the end of the log. Started again, the chain
            goes on.
    """
    ref, kaggle = read_metadata(kernel, kaggle.user)["id"], replace(kaggle, patience=PATIENCE, say=say)
    try:
        with locked(make_folder(folder)):
            file = folder / "chain.json"
            if not (begun := file.is_file()):
                refuse_foreign(folder / "output")
            elif anew:
                raise KitError(f"{file} tells of a chain that has begun. Leave out --anew to go on with it, or remove that file.")
            story = read_story(file, ref) if begun or anew else adopted(ref, kaggle, say)
            story.via = via or story.via
            if reason := over(story, file, max_sessions, until):
                say(reason)
            while not over(story, file, max_sessions, until):
                pushed = story.running or begin(story, kernel, kaggle, say, folder, timeout)
                try:
                    ended = wait_for(pushed, kaggle, say)
                    reason = look(story, pushed, kaggle, folder, ended, late=ended.seconds > LATE * (story.limit or LIMIT))
                except Refused:
                    if not (reason := gone(story, pushed, kaggle)):
                        raise
                save(story, folder)
                if reason:
                    raise KitError(reason)
                say(f"session {len(story.steps)}: step {story.steps[-1]:,}, {story.state}")
                if story.state != "done" and story.still >= STILL:
                    raise KitError(
                        f"{story.still} sessions in a row have not moved {ref} from step {story.step:,}. Mend what the last one's log says "
                        "and start the chain again; where a session does not find the output that is attached, with --via dataset. "
                        f"It ends:\n{story.tail}"
                    )
    except Busy:
        raise KitError(f"Another kit chain is at work with {folder}. Wait for it or stop it.") from None
    return story


def adopted(ref: str, kaggle: Kaggle, say: Say) -> Story:
    """A new chain, whose first session is the kernel's newest where that runs, or has brought a run some way and not to its end: `kit push`
    began it, or a chain on another machine."""
    story, newest = Story(ref), newest_version(kaggle, ref).number
    if not newest:
        return story
    try:
        record, names = session_record(kaggle, ref)
    except Refused:  # a session that runs, or failed, may have no output to show
        record, names = {}, []
    unfinished = reached(record, names) and record.get("state") != "done"
    if unfinished or session_status(kaggle, ref).status.name not in OVER:
        say(f"{ref} version {newest}, which this chain did not push, is taken for its first session; --anew would begin at the first step")
        story.running = Pushed(ref, newest, "")
    return story


def over(story: Story, file: Path, max_sessions: int | None, until: int | None) -> str:
    """Why no further session is pushed, and what to do for one; empty where one is."""
    if story.state == "done":
        return f"{file} tells of a run that is done. For another one, such as a changed head's, remove that file or choose another --out."
    if max_sessions is not None and len(story.steps) >= max_sessions:
        return f"{len(story.steps)} of --max-sessions {max_sessions} were, those of earlier starts included. Raise it for more."
    if until is not None and story.step >= until:
        return f"The run is at step {story.step:,}, --until {until}. Raise it to go on."
    return ""


def begin(story: Story, kernel: Path, kaggle: Kaggle, say: Say, folder: Path, timeout: int | None) -> Pushed:
    """Push the next session, with the state attached and the step that it must hold; by another way where Kaggle drops the source.

    The version before and the text are written down first. A chain that was killed before it could write down the version after finds its
    push by them, whatever it would send now.
    """
    refuse_used_up(story, kaggle, kernel, say)
    while True:
        changes = carry(story, kernel, kaggle, folder)
        if story.before is None or story.before_of != changes.get("id", story.ref):
            story.before_of, story.texts = changes.get("id", story.ref), []
            story.before = newest_version(kaggle, story.before_of).number
        now, story.limit = digest_of(compose(kernel, read_head(kernel), story.step, None, timeout)), timeout
        story.texts = [*dict.fromkeys([*story.texts, now])]
        save(story, folder)
        send = partial(push, kernel, kaggle, say, timeout=timeout, least_step=story.step, changes=changes)
        try:
            pushed = send(patience=PATIENCE, before=story.before, texts=story.texts)
            break
        except Dropped as drop:
            story.before = None  # or a chain that is started again would take this push for its own
            save(story, folder)
            story.via = next_way(story, changes, drop)
            save(story, folder)
            say(f"Kaggle dropped {', '.join(drop.sources)}: the state will travel by --via {story.via}")
            wait_for(drop.pushed, kaggle, say)  # it finds less than it was promised and stops at once
    story.running, story.before, story.texts = pushed, None, []
    save(story, folder)
    say(f"{pushed.ref} version {pushed.version}: {pushed.url}")
    return pushed


def carry(story: Story, kernel: Path, kaggle: Kaggle, folder: Path) -> dict[str, Any]:
    """What the next push says otherwise than the metadata, so that its session finds the run's state.

    The furthest session is named by its version after one that brought nothing, which may have left nothing, and where it did not end
    well itself: Kaggle may mount the newest one that did.
    """
    if not story.furthest:
        return {}
    by_version = story.still or story.furthest.state != "COMPLETE"
    source = story.furthest.ref + (f"/{story.furthest.version}" if by_version else "")
    match story.via:
        case "self":
            return {"kernel_sources": [source]}
        case "pair":
            partner = {"id": f"{story.ref}-b", "title": f"{read_metadata(kernel, kaggle.user)['title']} b"}
            return {"kernel_sources": [source]} | (partner if story.furthest.ref == story.ref else {})
        case "dataset":
            owner, slug = story.ref.split("/")
            dataset = f"{owner}/{slug[: SLUG - len(STATE)].rstrip('-')}{STATE}"
            files = [file for file in (folder / "output").rglob("*") if file.is_file()]
            upload(kaggle, dataset, sorted(files, key=lambda file: file.name), f"step {story.step}")
            return {"dataset_sources": [dataset]}


def next_way(story: Story, changes: dict[str, Any], drop: Dropped) -> Via:
    """Raises:
    KitError: what was dropped is not the state, or there is no other way left.
    """
    carried = {source for name, value in changes.items() if name.endswith("_sources") for source in value}
    if story.via == VIAS[-1] or not carried.intersection(drop.sources):
        raise drop
    return VIAS[VIAS.index(story.via) + 1]


def look(story: Story, pushed: Pushed, kaggle: Kaggle, folder: Path, ended: Ended, late: bool) -> str:
    """How far the session that has ended brought the run. Returns why the chain does not go on after it, empty where it does.

    run.json tells of a session that ended in order. One that was killed has not come to that, but its checkpoints have their steps in
    their names.

    It goes on after a session that ended well, that brought the run further, that was given an older output than it had been promised,
    or that Kaggle's time limit ended (Kaggle says so, or it ran until `late`), whose output may be lost. Any other failure counts for
    nothing, whatever its own log says of limits. It stops, too, where a person has cancelled the session, or pushed the kernel meanwhile.
    """
    what, story.running, story.tail = f"{pushed.ref} version {pushed.version}", None, ended.tail()
    if (newest := newest_version(kaggle, pushed.ref).number) > pushed.version:
        story.steps.append(0)  # it may have brought something: Kaggle tells of the newest session alone
        return (
            f"{pushed.ref} has a version {newest}, which this chain did not push: what became of its own, version {pushed.version}, can't "
            f"be told. Push that kernel by the chain alone. Started again, it goes on from step {story.step:,}."
        )
    limit, stale = bool(LIMIT_WORDS.search(ended.reason)), STALE_WORDS in " ".join(ended.log[-TAIL:])
    excused = ended.state == "COMPLETE" or late or limit or stale
    by_a_person = ended.state == "CANCEL_ACKNOWLEDGED" and not (late or limit)
    cancelled = f"{what} was cancelled on Kaggle. Start the chain again to go on." if by_a_person else ""
    try:
        record, names = session_record(kaggle, pushed.ref)
    except Refused as refusal:
        if ended.state == "COMPLETE" or refusal.code not in (403, 404):
            raise
        record, names = {}, []  # a session that failed may have no output to show
    step, done = reached(record, names), record.get("state") == "done"
    if step > story.step or done:  # the last session may only hand in, or end with fewer steps than one that diverged
        mirror(kaggle, pushed.ref, folder / "output")
        story.furthest = Reached(pushed.ref, pushed.version, step, ended.state)
    elif cancelled or not excused:
        return cancelled or ended.words(what)
    story.steps.append(step)
    story.state = "done" if done else "running"
    return "" if done else cancelled


def gone(story: Story, pushed: Pushed, kaggle: Kaggle) -> str:
    """Why a session can't be told of whose kernel was deleted on Kaggle meanwhile; empty where it is still there. It is asked no more."""
    if newest_version(kaggle, pushed.ref).number >= pushed.version:
        return ""
    story.running = None
    story.steps.append(0)
    return (
        f"{pushed.ref} version {pushed.version} is not on Kaggle any more. Was it deleted there? Started again, the chain goes on from "
        f"step {story.step:,}."
    )


def reached(record: dict[str, Any], names: list[str]) -> int:
    """The steps that a session's run.json tells of, or the names of its files."""
    return max(steps_in(found for name in names if (found := described(Path(name)))), steps_told(record))


def steps_told(record: dict[str, Any]) -> int:
    """The steps in the last line of a run.json; 0 where it tells none."""
    with suppress(KeyError, IndexError, TypeError, ValueError, OverflowError):
        return int(record["sessions"][-1]["steps"])
    return 0


def refuse_used_up(story: Story, kaggle: Kaggle, kernel: Path, say: Say) -> None:
    """A session without GPU time left would wait in Kaggle's queue, or run on a CPU.

    Raises:
        KitError: the week's time is used up.
    """
    if not read_metadata(kernel, kaggle.user)["enable_gpu"] or (hours := gpu_time(kaggle)) is None:
        return
    used, allowed = hours
    if used >= allowed:
        raise KitError(
            f"The week's {allowed:.0f} GPU hours are used up. Start the chain again when Kaggle gives new ones."
            + (f" The last session's log ends:\n{story.tail}" if story.tail else "")
        )
    say(f"GPU time: {used:.1f} of {allowed:.1f} h used")


def gpu_time(kaggle: Kaggle) -> tuple[float, float] | None:
    """(used, allowed) hours of this week's GPU time; None where Kaggle does not say.

    Raises:
        Refused: the token is wrong.
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

    wanted = ApiGetAcceleratorQuotaStatisticsRequest()
    try:
        quota = kaggle.ask(lambda client: client.kernels.kernels_api_client.get_accelerator_quota_statistics(wanted)).gpu_quota
    except Refused as error:
        if error.code == 401:
            raise
        return None
    if quota is None or not quota.total_time_allowed:
        return None
    return (quota.time_used.total_seconds() if quota.time_used else 0.0) / 3600, quota.total_time_allowed.total_seconds() / 3600


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


def refuse_foreign(output: Path) -> None:
    """What an earlier session left in `output` is removed with each that goes further: nobody else's files may lie there.

    Raises:
        KitError: there is something, and no run's.
    """
    files = [file for file in output.rglob("*") if file.is_file()]
    if files and not (output / "run.json").exists() and not any(map(described, files)):
        raise KitError(f"{output} holds files that no chain fetched, and would not keep them. Move them away, or choose another --out.")


def save(story: Story, folder: Path) -> None:
    write_json(folder / "chain.json", asdict(story))
