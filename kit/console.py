"""What a person sees: plain lines on the screen and in log.txt, a progress bar only where there is a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Screen(Console):
    """Standard output that may fail: after a closed terminal, a broken pipe or a full disk the program goes on, silently."""

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except (OSError, SystemExit):  # rich would end the program where a pipe is closed
            self.quiet = True


console = Screen(soft_wrap=True, highlight=False, emoji=False)


def counted(number: int, one: str, many: str = "") -> str:
    """`1 epoch`, `2,000 epochs`. many: where it takes more than an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


class Log:
    """`log(line)` prints a line and appends it, with the time, to log.txt.

    A log is not worth a run: when its disk is full it goes on on the screen alone.
    """

    def __init__(self, file: Path | None = None, silent: bool = False):
        self.file, self.silent = file, silent

    def __call__(self, line: str) -> None:
        if self.silent:
            return
        console.print(line, markup=False)
        if self.file is not None:
            try:
                with open(self.file, "a", encoding="utf-8", errors="backslashreplace") as out:  # a stranger's name may be no UTF-8
                    out.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
            except OSError as error:
                self.file = None
                console.print(f"log.txt is not written any more: {error}", markup=False)


@contextmanager
def progress(what: str, total: int, shown: bool = True, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yields `set(done)`. On a terminal it moves a bar and tells the time left; elsewhere it does nothing, since a log wants lines.

    done: where it begins; what an earlier session did says nothing about today's pace.
    """
    if not (shown and console.file.isatty()):  # not sys.stdout, which is None where it was closed
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda done: bar.update(task, completed=done)
