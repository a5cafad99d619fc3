"""`kit push`: a kernel bundled, checked and sent; success is a version number, no error and no dropped source.

A connection may break after Kaggle took a push, and a second one would start a second session. So before it is sent again, Kaggle is
asked which version there is, whether its text is ours and whether it has all of its sources.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kit.errors import KitError
from kit.remote.bundle import compose, read_head, write_script
from kit.remote.client import Kaggle, Refused
from kit.remote.credentials import hide
from kit.remote.metadata import read_metadata
from kit.remote.output import address, list_output, read_log

KINDS = ("dataset", "competition", "kernel", "model")  # of sources
FULL = "maximum batch"  # in what Kaggle says when two sessions of this account are running already
FULL_PAUSE = 60.0  # seconds
POLL = 20.0  # seconds between two looks at a session
SOON = (2.0, 5.0, 10.0)  # and between the first ones
OVER = {"COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"}
UNRUN = "NEW_SCRIPT"  # of a version that was saved and not run (Quick Save); for a moment after a push, too
TAIL = 15  # lines of a failed session's log
PATIENCE = 12 * 3600.0  # seconds to follow a session through an outage, and of a chain to wait for a free one


@dataclass(frozen=True)
class Pushed:
    """ref: owner/slug. version: Kaggle's number of it."""

    ref: str
    version: int
    url: str


class Dropped(KitError):
    """Kaggle took a push without some of its sources. The session runs all the same, without them."""

    def __init__(self, message: str, pushed: Pushed, sources: Sequence[str]):
        super().__init__(message)
        self.pushed, self.sources = pushed, sources


class Full(KitError):
    """Two sessions of this account are running already. reason: Kaggle's own words."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def push(
    kernel: Path,
    kaggle: Kaggle,
    *,
    timeout: int | None = None,
    patience: float = 0,
    least_step: int = 0,
    changes: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    before: int | None = None,
    texts: Collection[str] = (),
) -> Pushed:
    """Bundle and send a kernel, once.

    Args:
        least_step: of the run that the session must find attached.
        changes: what is sent instead of the metadata's own fields; sources are added to those.
        environment: variables of the session.
        before: the newest version when this push was first tried, where an earlier command may have been killed in the middle of it.
        texts: sha256 of what such a command may have sent, which need not be what this one would.
        timeout: after which Kaggle ends the session, seconds, which the session is told; None for its own limit.
        patience: how long to wait for a free session, seconds.
    Raises:
        Dropped: Kaggle took it without some of its sources.
        KitError: what is wrong with the metadata, or what Kaggle refused, in its words.
    """
    metadata = changed(read_metadata(kernel, kaggle.user), changes or {})
    text = compose(kernel, read_head(kernel), least_step, environment, timeout)
    write_script(kernel, text)
    wanted = request(metadata, text, timeout)
    known = newest_version(kaggle, metadata["id"]).number if before is None else before

    def send() -> Pushed:
        return pushed_by(metadata, kaggle.once(lambda client: client.kernels.kernels_api_client.save_kernel(wanted)))

    def arrived() -> Pushed | None:
        newest = newest_version(kaggle, metadata["id"])
        if newest.number <= known or (newest.text != text and digest_of(newest.text) not in texts):
            return None
        pushed = Pushed(metadata["id"], newest.number, url_of(metadata))
        refuse_dropped(pushed, missing(metadata, newest))
        return pushed

    if before is not None and (there := arrived()):
        return there
    deadline = time.monotonic() + patience
    while True:
        try:
            return kaggle.deliver(send, arrived, "the push")
        except Full as full:
            if time.monotonic() >= deadline:
                raise
            kaggle.say(f"waiting for a free session: {full.reason}")
            kaggle.sleep(FULL_PAUSE)


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changed(metadata: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    added = {name: list(dict.fromkeys([*metadata[name], *value])) for name, value in changes.items() if name.endswith("_sources")}
    return metadata | dict(changes) | added


def pushed_by(metadata: dict[str, Any], answer: Any) -> Pushed:
    """What an answer to a push means.

    Raises:
        Dropped: sources are missing.
        Full: there is no free session.
        KitError: it is none of a push that worked.
    """
    if answer.error:
        reason = hide(f"Kaggle did not take {metadata['id']}: {answer.error.rstrip('.')}.")
        if FULL in answer.error.lower():
            raise Full(f"{reason} --patience 2h waits for a free one.", hide(answer.error))
        raise KitError(reason)
    if not answer.version_number:
        raise KitError(f"Kaggle gave {metadata['id']} no version number. Look at its page before you push again.")
    pushed = Pushed(metadata["id"], answer.version_number, answer.url or url_of(metadata))
    refuse_dropped(pushed, {kind: list(getattr(answer, f"invalid_{kind}_sources") or []) for kind in KINDS})
    return pushed


def url_of(metadata: dict[str, Any]) -> str:
    return f"https://www.kaggle.com/code/{metadata['id']}"


def refuse_dropped(pushed: Pushed, dropped: dict[str, list[str]]) -> None:
    """Raises:
    Dropped: sources are missing.
    """
    if words := [f"{kind} {source}" for kind, sources in dropped.items() for source in sources]:
        raise Dropped(
            f"Kaggle took {pushed.ref} as version {pushed.version} but dropped {', '.join(words)}: the session runs without. "
            "Is the name right, does this account see it, and has the kernel that is its own source run once?",
            pushed,
            [source for sources in dropped.values() for source in sources],
        )


class Version(NamedTuple):
    """A kernel's newest version. sources: by kind, as Kaggle writes them."""

    number: int = 0
    text: str = ""
    sources: Mapping[str, Sequence[str]] = {}


def missing(metadata: dict[str, Any], there: Version) -> dict[str, list[str]]:
    """By kind, the sources that a version lacks. Kaggle has been seen to write `c/`, `code/` or `datasets/` before a name, and may leave
    out which version of it."""
    has = lambda kind, name: any(f"/{name}/".lower() in f"/{other}/".lower() for other in there.sources.get(kind, ()))  # noqa: E731
    return {kind: [one for one in metadata[f"{kind}_sources"] if not has(kind, "/".join(one.split("/")[:2]))] for kind in KINDS}


def newest_version(kaggle: Kaggle, ref: str) -> Version:
    """The newest version of a kernel; number 0 where there is none yet."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    wanted = ApiGetKernelRequest()
    wanted.user_name, wanted.kernel_slug = ref.split("/")
    try:
        return kaggle.ask(lambda client: version_of(client.kernels.kernels_api_client.get_kernel(wanted)))
    except Refused as refusal:
        if refusal.code in (403, 404):  # both are said of a kernel that is not there
            return Version()
        raise


def version_of(answer: Any) -> Version:
    """Raises:
    ValueError: it tells of no kernel.
    """
    if answer.metadata is None:
        raise ValueError("no metadata")
    sources = {kind: getattr(answer.metadata, f"{kind}_data_sources") or [] for kind in KINDS}
    return Version(answer.metadata.current_version_number or 0, answer.blob.source if answer.blob else "", sources)


def request(metadata: dict[str, Any], text: str, timeout: int | None) -> Any:
    """The client's own request, every field from the metadata: its defaults are not those that are documented."""
    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

    wanted = ApiSaveKernelRequest()
    wanted.slug, wanted.new_title, wanted.text = metadata["id"], metadata["title"], text
    wanted.category_ids = metadata["keywords"]
    for kind in KINDS:
        setattr(wanted, f"{kind}_data_sources", metadata[f"{kind}_sources"])
    for name in (
        "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape", "docker_image",
        "docker_image_pinning_type",
    ):  # fmt: skip
        setattr(wanted, name, metadata[name])
    if timeout:
        wanted.session_timeout_seconds = timeout
    return wanted


def describe(metadata: dict[str, Any], text: str, timeout: int | None) -> str:
    """What a push would send, with the text's size and digest in its place."""
    limit = {"session_timeout_seconds": timeout} if timeout else {}
    return json.dumps(metadata | limit | {"text": f"{len(text.encode()):,} bytes, sha256 {digest_of(text)}"}, indent=2)


@dataclass(frozen=True)
class Ended:
    """How a session ended: Kaggle's state and reason, its log, and how long it ran at least. ref: by which it can be asked for."""

    ref: str
    state: str
    reason: str
    log: tuple[str, ...]
    seconds: float

    def insist(self, what: str) -> None:
        """Raises:
        KitError: it did not end well, with the end of its log.
        """
        if self.state != "COMPLETE":
            raise KitError(self.words(what))

    def words(self, what: str) -> str:
        return f"{what} ended as {self.state}. {hide(self.reason)}\n{self.tail()}".strip()

    def tail(self) -> str:
        return hide("\n".join(self.log[-TAIL:]))


def log_of(kaggle: Kaggle, ref: str) -> tuple[list[str], float]:
    """A session's log, and when its last line came; empty where Kaggle does not show it yet."""
    try:
        return read_log(list_output(kaggle, ref)[1])
    except Refused:
        return [], 0.0


def session_status(kaggle: Kaggle, ref: str) -> Any:
    """Kaggle's answer of a session (`address`): `status`, and where it failed `failure_message`."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    wanted = ApiGetKernelSessionStatusRequest()
    address(wanted, ref)
    return kaggle.ask(lambda client: client.kernels.kernels_api_client.get_kernel_session_status(wanted))


def wait_for(pushed: Pushed, kaggle: Kaggle) -> Ended:
    """Follow a session to its end, saying each state and each new line of its log. An outage of PATIENCE is outlasted.

    Kaggle is asked for the newest session, as its own client asks, and by the version only where someone else has pushed another meanwhile.
    """
    kaggle, ref = replace(kaggle, patience=PATIENCE), pushed.ref
    state, said, pauses = "", 0, itertools.chain(SOON, itertools.repeat(POLL))
    seen: list[float] = []  # first and last, when it was at work
    while True:
        answer = session_status(kaggle, ref)
        if answer.status.name != state:
            state = answer.status.name
            kaggle.say(f"{pushed.ref} version {pushed.version}: {state}")
        if state in (*OVER, UNRUN) and ref == pushed.ref and newest_version(kaggle, ref).number > pushed.version:
            ref, state, said, seen = f"{ref}/{pushed.version}", "", 0, []
            kaggle.say(f"{pushed.ref} has a newer version, which was not pushed here; asking for {ref}")
            continue
        if state == "RUNNING":
            seen = [*seen[:1], time.time()]
        lines, seconds = log_of(kaggle, ref)
        for line in lines[said:]:
            kaggle.say(hide(line))
        said = max(said, len(lines))
        if state in OVER:
            return Ended(ref, state, answer.failure_message or "", tuple(lines), max(seconds, seen[-1] - seen[0] if seen else 0.0))
        kaggle.sleep(next(pauses))
