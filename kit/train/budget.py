"""A session's time: counted from the start of the process, and never spent twice.

The plan of a run is fixed; a budget only says where today's slice of it ends. What is still owed when the loop stops (a save, the
provisional submission) is measured, not guessed, as soon as it has happened once.
"""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.errors import KitError, Suspended

IMPORTED = time.time()
UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds in `9h`, `30m`, `1h30m`, `90s` or `90`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise KitError(f"--budget {text}: write a duration such as 9h, 30m, 1h30m or 90s.")
    return sum(float(n) * UNITS[u or "s"] for n, u in parts)


def process_start() -> float:
    """When this process began, as `time.time()` counts: imports alone take seconds. Linux tells; elsewhere this module's import."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        started = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return IMPORTED
    return min(IMPORTED, started) if IMPORTED - started < 3600 else IMPORTED


class Budget:
    """seconds: of the whole session, None for no limit. `stop` is set by SIGTERM or SIGINT."""

    def __init__(self, seconds: float | None, started: float | None = None):
        self.seconds, self.started = seconds, process_start() if started is None else started
        self.stop: str | None = None
        self.longest: dict[str, float] = {}  # seconds that a kind of work has taken at most

    def elapsed(self) -> float:
        return time.time() - self.started

    def left(self) -> float:
        return float("inf") if self.seconds is None else self.seconds - self.elapsed()

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Measure a piece of work; the longest so far is what the next one is expected to take."""
        start = time.perf_counter()
        yield
        self.longest[kind] = max(self.longest.get(kind, 0), time.perf_counter() - start)

    def reserve(self, *kinds: str) -> float:
        """Seconds to keep free for work that must still happen, with a fifth of slack and two seconds for the exit."""
        return 2 + 1.2 * sum(self.longest.get(kind, 0) for kind in kinds)

    def fits(self, *kinds: str) -> bool:
        return self.stop is None and self.left() > self.reserve(*kinds)

    def insist(self, what: str, *kinds: str) -> None:
        """Go on with `what` only while there is time for it and for what follows.

        Raises:
            Suspended: there is not.
        """
        if not self.fits(*kinds):
            reason = self.stop or f"the budget of {self.seconds:.0f} s leaves {max(0, self.left()):.0f} s"
            raise Suspended(f"{reason}: stopped before {what}")

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C ask the run to save and stop at the next step; a second Ctrl-C ends it at once."""

        def ask(number: int, _: object) -> None:
            if self.stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop = f"{signal.Signals(number).name} came"

        before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
