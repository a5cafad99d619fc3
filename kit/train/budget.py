"""A session's time: counted from its start, measured in every part, and never spent twice.

The plan of a run is fixed; a budget only says where today's slice of it ends. What is still owed when the loop stops (a save, the
provisional submission) is measured, not guessed, as soon as it has happened once.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import KitError, Suspended
from kit.world import World

IMPORTED, TICKS = time.time(), time.monotonic()
STARTED = "KIT_SESSION_STARTED"  # seconds since 1970, set by whatever began the session: a bundle's first line, a job's script
OLDEST = 24 * 3600  # seconds; a process that claims to be older runs under a clock that is not ours
EXIT = 2  # seconds to leave in order
PAGE = 5  # seconds to import what report.html is written with, and to write it, until that is measured
REPORT, REPORT_SHARE = 20, 0.02  # seconds, and the share of a session, that are kept at most for report.html and what it looks up
SLACK = 1.2  # work may take a fifth longer than it ever did


def steady() -> float:
    """Seconds since 1970 as the system's clock had them at this import, counted on by one that nobody sets: a correction in the ninth hour
    neither ends a session nor gives it time that it does not have."""
    return IMPORTED + time.monotonic() - TICKS


def session_start() -> float:
    """When this session began, as `steady` counts: the earliest of KIT_SESSION_STARTED, the process's start and this import.

    Imports alone take seconds. Linux tells when a process began; elsewhere this module's import is the earliest that is known.
    """
    claims = [IMPORTED]
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        claims.append(steady() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")))
    except (OSError, ValueError, IndexError, AttributeError):
        pass
    try:
        claims.append(float(os.environ.get(STARTED, IMPORTED)))
    except ValueError:
        raise KitError(f"{STARTED}={os.environ[STARTED]!r} is no time: give seconds since 1970, such as $(date +%s).") from None
    return min(claim for claim in claims if claim > IMPORTED - OLDEST)


class Budget:
    """seconds: of the whole session, None for no limit. clock: of the seconds since 1970. `stop` is set by SIGTERM or SIGINT."""

    def __init__(self, seconds: float | None, started: float | None = None, clock: Callable[[], float] = steady):
        self.seconds, self.clock, self.world = seconds, clock, World()
        self.started = session_start() if started is None else started
        self.stop: str | None = None
        self.longest: dict[str, float] = {}  # seconds that a kind of work has taken at most
        self.spent: Counter[str] = Counter()  # seconds in all, by kind
        self.times: Counter[str] = Counter()  # how often

    def elapsed(self) -> float:
        return self.clock() - self.started

    def left(self) -> float:
        return float("inf") if self.seconds is None else self.seconds - self.elapsed()

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Measure a piece of work; the longest so far is what the next one is expected to take."""
        start = self.clock()
        yield
        self.count(kind, self.clock() - start)

    def count(self, kind: str, seconds: float) -> None:
        known = self.longest.get(kind, 0.0) if self.times[kind] else 0.0  # what an earlier session took is only the first guess
        self.longest[kind] = max(known, seconds)
        self.spent[kind] += seconds  # type: ignore[assignment]  # a Counter of floats: what is missing reads as 0
        self.times[kind] += 1

    def reserve(self, *kinds: str) -> float:
        """Seconds to keep free for work that must still happen, and for the page that a session ends with."""
        report = min(self.longest.get("report", 0), REPORT, REPORT_SHARE * (self.seconds or 0))
        return EXIT + SLACK * (sum(self.longest.get(kind, 0) for kind in kinds) + report)

    def fits(self, *kinds: str) -> bool:
        """Whether there is time for all of these, and no signal came; of several processes to all of them."""
        return self.world.all(self.stop is None and self.left() > self.reserve(*kinds))

    def enough_for(self, kind: str) -> bool:
        """Whether work for which time was kept can still be done, without the slack that may have been used up meanwhile."""
        return self.left() > self.longest.get(kind, 0)

    def insist(self, what: str, *kinds: str) -> None:
        """Go on with `what` only while there is time for it and for what follows.

        Raises:
            Suspended: there is not.
        """
        if not self.fits(*kinds):
            left = f"the budget of {self.seconds:.0f} s leaves {max(0, self.left()):.0f} s" if self.seconds is not None else ""
            raise Suspended(f"{self.stop or left or 'another process was stopped'}: stopped before {what}")

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask the run to save and stop at the next step; a second Ctrl-C ends it at once."""
        asked = False

        def ask(number: int, _: object) -> None:
            nonlocal asked
            if asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            asked = True
            self.stop = f"{signal.Signals(number).name} came"

        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
