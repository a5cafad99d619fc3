"""`kit chain`: push, wait, look how far the run is, attach its output, push again, until the run is done.

All that it knows between two commands is in one small file, so it may be stopped or killed at any moment and started again: a session
that is still running is waited for, not started a second time. A copy of the furthest output is kept beside that file.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from kit.console import counted
from kit.errors import KitError
from kit.files import Busy, locked, make_folder
from kit.remote.bundle import compose, read_head
from kit.remote.client import Kaggle, Refused
from kit.remote.kernel import LIMIT
from kit.remote.metadata import read_metadata
from kit.remote.output import Progress, mirror, progress_of
from kit.remote.push import OVER, PATIENCE, TAIL, UNRUN, Dropped, Ended, Pushed, digest_of, newest_version, push, session_status, wait_for
from kit.remote.quota import refuse_used_up
from kit.remote.story import FILE, Reached, Story, Via, read_story, save
from kit.remote.transport import carry, next_way
from kit.session import STALE
from kit.train.checkpoint import described

LATE = 0.95  # of the limit: the last look at a session that it ends, and the last line of its log, come before
LIMIT_WORDS = re.compile(r"time limit|timed out|timeout|exceeded.*(time|duration)", re.IGNORECASE)  # of Kaggle, of a session that it ended
STILL = 2  # sessions without progress after which a person should look


def chain(
    kernel: Path,
    kaggle: Kaggle,
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
        KitError: a session failed or was cancelled, two in a row brought nothing, someone deleted the kernel, the week's GPU time is used
            up, or Kaggle refused: each with the reason and, of a failure, the end of the log. Started again, the chain goes on.
    """
    ref, kaggle = read_metadata(kernel, kaggle.user)["id"], replace(kaggle, patience=PATIENCE)
    try:
        with locked(make_folder(folder)):
            file = folder / FILE
            if not (begun := file.is_file()):
                refuse_foreign(folder / "output")
            elif anew:
                raise KitError(f"{file} tells of a chain that has begun. Leave out --anew to go on with it, or remove that file.")
            story = read_story(file, ref) if begun or anew else adopted(ref, kaggle)
            story.via = via or story.via
            if reason := over(story, file, max_sessions, until):
                kaggle.say(reason)
            while not over(story, file, max_sessions, until):
                pushed = story.running or begin(story, kernel, kaggle, folder, timeout)
                try:
                    ended = wait_for(pushed, kaggle)
                    reason = look(story, pushed, kaggle, folder, ended, late=ended.seconds > LATE * (story.limit or LIMIT))
                except Refused:
                    if not (reason := gone(story, pushed, kaggle)):
                        raise
                save(story, folder)
                if reason:
                    raise KitError(reason)
                kaggle.say(f"session {len(story.steps)}: step {story.steps[-1]:,}, {story.state}")
                if story.state != "done" and story.still >= STILL:
                    raise KitError(
                        f"{story.still} sessions in a row have not moved {ref} from step {story.step:,}. Mend what the last one's log says "
                        "and start the chain again; where a session does not find the output that is attached, with --via dataset. "
                        f"It ends:\n{story.tail}"
                    )
    except Busy:
        raise KitError(f"Another kit chain is at work with {folder}. Wait for it or stop it.") from None
    return story


def adopted(ref: str, kaggle: Kaggle) -> Story:
    """A new chain, whose first session is the kernel's newest where that runs, or has brought a run some way and not to its end: `kit push`
    began it, or a chain on another machine."""
    story, newest = Story(ref), newest_version(kaggle, ref).number
    if not newest:
        return story
    try:
        progress = progress_of(kaggle, ref)
    except Refused:  # a session that runs, or failed, may have no output to show
        progress = Progress()
    if (progress.steps and not progress.done) or session_status(kaggle, ref).status.name not in (*OVER, UNRUN):
        kaggle.say(
            f"{ref} version {newest}, which this chain did not push, is taken for its first session; --anew would begin at the first step"
        )
        story.running = Pushed(ref, newest, "")
    return story


def over(story: Story, file: Path, max_sessions: int | None, until: int | None) -> str:
    """Why no further session is pushed, and what to do for one; empty where one is."""
    if story.state == "done":
        return f"{file} tells of a run that is done. For another one, such as a changed head's, remove that file or choose another --out."
    if max_sessions is not None and len(story.steps) >= max_sessions:
        so_far = counted(len(story.steps), "session")
        return f"--max-sessions {max_sessions} is reached ({so_far}, earlier starts included). Raise it to go on."
    if until is not None and story.step >= until:
        return f"The run is at step {story.step:,}, --until {until}. Raise it to go on."
    return ""


def begin(story: Story, kernel: Path, kaggle: Kaggle, folder: Path, timeout: int | None) -> Pushed:
    """Push the next session, with the state attached and the step that it must hold; by another way where Kaggle drops the source.

    The version before and the text are written down first. A chain that was killed before it could write down the version after finds its
    push by them, whatever it would send now.
    """
    if read_metadata(kernel, kaggle.user)["enable_gpu"]:
        refuse_used_up(kaggle, story.tail)
    while True:
        changes = carry(story, kernel, kaggle, folder)
        if story.before is None or story.before_of != changes.get("id", story.ref):
            story.before_of, story.texts = changes.get("id", story.ref), []
            story.before = newest_version(kaggle, story.before_of).number
        now, story.limit = digest_of(compose(kernel, read_head(kernel), story.step, None, timeout)), timeout
        story.texts = [*dict.fromkeys([*story.texts, now])]
        save(story, folder)
        send = partial(push, kernel, kaggle, timeout=timeout, least_step=story.step, changes=changes)
        try:
            pushed = send(patience=PATIENCE, before=story.before, texts=story.texts)
            break
        except Dropped as drop:
            story.before = None  # or a chain that is started again would take this push for its own
            save(story, folder)
            story.via = next_way(story, changes, drop)
            save(story, folder)
            kaggle.say(f"Kaggle dropped {', '.join(drop.sources)}: the state will travel by --via {story.via}")
            wait_for(drop.pushed, kaggle)  # it finds less than it was promised and stops at once
    story.running, story.before, story.texts = pushed, None, []
    save(story, folder)
    kaggle.say(f"{pushed.ref} version {pushed.version}: {pushed.url}")
    return pushed


def look(story: Story, pushed: Pushed, kaggle: Kaggle, folder: Path, ended: Ended, late: bool) -> str:
    """How far the session that has ended brought the run. Returns why the chain does not go on after it, empty where it does.

    run.json tells of a session that ended in order. One that was killed has not come to that, but its checkpoints have their steps in
    their names.

    It goes on after a session that ended well, that brought the run further, that was given an older output than it had been promised,
    or that Kaggle's time limit ended (Kaggle says so, or it ran until `late`), whose output may be lost. Any other failure counts for
    nothing, whatever its own log says of limits. It stops, too, where a person has cancelled the session.
    """
    what, story.running, story.tail = f"{pushed.ref} version {pushed.version}", None, ended.tail()
    limit, stale = bool(LIMIT_WORDS.search(ended.reason)), STALE in " ".join(ended.log[-TAIL:])
    excused = ended.state == "COMPLETE" or late or limit or stale
    by_a_person = ended.state == "CANCEL_ACKNOWLEDGED" and not (late or limit)
    cancelled = f"{what} was cancelled on Kaggle. Start the chain again to go on." if by_a_person else ""
    try:
        progress = progress_of(kaggle, ended.ref)
    except Refused as refusal:
        if ended.state == "COMPLETE" or refusal.code not in (403, 404):
            raise
        progress = Progress()  # a session that failed may have no output to show
    if progress.steps > story.step or progress.done:  # the last session may only hand in, or end with fewer steps than one that diverged
        mirror(kaggle, ended.ref, folder / "output")
        story.furthest = Reached(pushed.ref, pushed.version, progress.steps, ended.state)
    elif cancelled or not excused:
        return cancelled or ended.words(what)
    story.steps.append(progress.steps)
    story.state = "done" if progress.done else "running"
    return "" if progress.done else cancelled


def gone(story: Story, pushed: Pushed, kaggle: Kaggle) -> str:
    """Why a session can't be told of whose kernel was deleted on Kaggle, or pushed by someone else, meanwhile; empty where it is the
    newest. It is asked no more."""
    if (newest := newest_version(kaggle, pushed.ref).number) == pushed.version:
        return ""
    story.running = None
    story.steps.append(0)
    why = "is not on Kaggle any more. Was it deleted there?"
    if newest > pushed.version:
        why = f"can't be told of any more: there is a version {newest}, which this chain did not push. Push that kernel by the chain alone."
    return f"{pushed.ref} version {pushed.version} {why} Started again, the chain goes on from step {story.step:,}."


def refuse_foreign(output: Path) -> None:
    """What an earlier session left in `output` is removed with each that goes further: nobody else's files may lie there.

    Raises:
        KitError: there is something, and no run's.
    """
    files = [file for file in output.rglob("*") if file.is_file()]
    if files and not (output / "run.json").exists() and not any(map(described, files)):
        raise KitError(f"{output} holds files that no chain fetched, and would not keep them. Move them away, or choose another --out.")
