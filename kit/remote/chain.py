"""`kit chain`: push, wait, look how far the run is, attach its output to itself, push again, until the run is done.

All that it knows between two commands is in one small file, so it may be stopped or killed at any moment and started again: a session
that is still running is waited for, not started a second time.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.files import Busy, locked, make_folder, write_json
from kit.remote.client import Kaggle
from kit.remote.output import session_record
from kit.remote.push import TAIL, Ended, Pushed, newest_version, push, read_metadata, wait_for

PATIENCE = 12 * 3600.0  # seconds to wait for a free session
LIMIT_WORDS = ("time limit", "timed out", "timeout", "exceeded")  # in what Kaggle says of a session that it ended
STALE_WORDS = "was to be found there"  # in what a session says that was told of a later step than it found
STILL = 2  # sessions without progress after which a person should look
Say = Callable[[str], None]


@dataclass
class Story:
    """A chain so far.

    running: the session that was pushed and not yet looked at. before: the newest version when a push was begun, None when none is
    under way. steps: of the run, after each session.
    """

    ref: str
    running: dict[str, Any] | None = None
    before: int | None = None
    steps: list[int] = field(default_factory=list)
    state: str = "running"

    @property
    def still(self) -> int:
        """How many of the last sessions brought nothing."""
        count, furthest = 0, 0
        for step in self.steps:
            count, furthest = (0, step) if step > furthest else (count + 1, furthest)
        return count


def chain(
    kernel: Path,
    kaggle: Kaggle,
    say: Say,
    *,
    folder: Path,
    max_sessions: int | None = None,
    until: int | None = None,
    timeout: int | None = None,
) -> Story:
    """Sessions of a kernel until its run is done.

    Args:
        folder: where the chain's file and the newest run.json are kept.
        max_sessions: stop after as many; None for no limit.
        until: stop when the run is at this step.
        timeout: after which Kaggle ends a session, seconds.
    Raises:
        KitError: a session failed, two in a row brought nothing, the week's GPU time is used up, or Kaggle refused: each with the reason
            and the end of the log. Started again, the chain goes on.
    """
    ref = read_metadata(kernel, kaggle.user)["id"]
    try:
        with locked(make_folder(folder)):
            story = read_story(folder / "chain.json", ref)
            while story.state != "done" and not enough(story, max_sessions, until):
                if story.running is None:
                    begin(story, kernel, kaggle, say, folder, timeout)
                pushed = Pushed(**story.running)
                ended = wait_for(pushed, kaggle, say)
                look(story, kaggle, folder, ended)
                save(story, folder)
                if not goes_on(ended):
                    ended.insist(f"{pushed.ref} version {pushed.version}")
                say(f"session {len(story.steps)}: step {story.steps[-1]:,}, {story.state}")
                if story.state != "done" and story.still >= STILL:
                    raise KitError(
                        f"{STILL} sessions in a row have not moved {ref} from step {max(story.steps):,}. The last one's log ends:\n"
                        f"{ended.tail()}"
                    )
    except Busy:
        raise KitError(f"Another kit chain is at work with {folder}. Wait for it or stop it.") from None
    return story


def enough(story: Story, max_sessions: int | None, until: int | None) -> bool:
    far = max(story.steps, default=0)
    return (max_sessions is not None and len(story.steps) >= max_sessions) or (until is not None and far >= until)


def begin(story: Story, kernel: Path, kaggle: Kaggle, say: Say, folder: Path, timeout: int | None) -> None:
    """Push the next session: after the first, with the kernel's own output attached and the step that it must hold.

    The version before is written down first. A chain that was killed before it could write down the one after finds its push by that.
    """
    refuse_used_up(kaggle, kernel, say)
    if story.before is None:
        story.before = newest_version(kaggle, story.ref)[0]
        save(story, folder)
    step = max(story.steps, default=0)
    how = {"timeout": timeout, "patience": PATIENCE, "least_step": step, "sources": (story.ref,) if step else (), "before": story.before}
    pushed = push(kernel, kaggle, say, **how)
    story.running, story.before = asdict(pushed), None
    save(story, folder)
    say(f"{pushed.ref} version {pushed.version}: {pushed.url}")


def goes_on(ended: Ended) -> bool:
    """Whether the chain goes on after a session that ended like this: also after one that Kaggle's time limit ended, whose output may be
    lost, and after one that was given an older output than it had been promised."""
    text = f"{ended.reason} {' '.join(ended.log[-TAIL:])}".lower()
    return ended.state == "COMPLETE" or any(words in text for words in (*LIMIT_WORDS, STALE_WORDS))


def look(story: Story, kaggle: Kaggle, folder: Path, ended: Ended) -> None:
    """How far the session that has ended brought the run, by the run.json that it left; a failed one counts for nothing."""
    record = session_record(kaggle, story.ref, folder) if goes_on(ended) else None
    sessions = (record or {}).get("sessions") or [{}]
    if goes_on(ended):
        story.steps.append(int(sessions[-1].get("steps", 0)))
    story.state = "done" if record and record.get("state") == "done" else "running"
    story.running = None


def refuse_used_up(kaggle: Kaggle, kernel: Path, say: Say) -> None:
    """A session without GPU time left would wait in Kaggle's queue, or run on a CPU.

    Raises:
        KitError: the week's time is used up.
    """
    if not read_metadata(kernel, kaggle.user)["enable_gpu"]:
        return
    from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

    quota = kaggle.ask(lambda service: service.get_accelerator_quota_statistics(ApiGetAcceleratorQuotaStatisticsRequest())).gpu_quota
    if quota is None or not quota.total_time_allowed:
        return
    used, allowed = quota.time_used.total_seconds() if quota.time_used else 0.0, quota.total_time_allowed.total_seconds()
    if used >= allowed:
        raise KitError(f"The week's {allowed / 3600:.0f} GPU hours are used up. Start the chain again when Kaggle gives new ones.")
    say(f"GPU time: {used / 3600:.1f} of {allowed / 3600:.0f} h used")


def read_story(file: Path, ref: str) -> Story:
    """The chain that the file tells of, or a new one.

    Raises:
        KitError: it is damaged, or of another kernel.
    """
    if not file.is_file():
        return Story(ref)
    try:
        story = Story(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise KitError(f"{file} can't be read ({error}). Remove it to begin a new chain; what lies on Kaggle stays.") from None
    if story.ref != ref:
        raise KitError(f"{file} tells of {story.ref}, not of {ref}. Choose another --out.")
    return story


def save(story: Story, folder: Path) -> None:
    write_json(folder / "chain.json", asdict(story))
