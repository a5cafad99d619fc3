"""Worker processes and what they have of their parent: its cores, its signals, its end. They import this module: it stays free of torch."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children, parent_process
from multiprocessing.resource_tracker import ensure_running
from multiprocessing.util import Finalize


def cores() -> int:
    """CPU cores that this process may use: a container or taskset may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def signals_held() -> Iterator[None]:
    """Processes that begin in here never see Ctrl-C or SIGTERM, which reach the whole process group: they inherit the mask, from their
    first instruction on. The parent alone decides what a signal means.

    multiprocessing's own helper is begun before, for that takes the mask away again. At its exit multiprocessing waits for whom it has sent
    SIGTERM: those that still work are killed first."""
    ensure_running()
    Finalize(None, kill_workers, exitpriority=0)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_workers() -> None:
    for worker in active_children():
        if worker.daemon:
            worker.kill()


def die_with_parent() -> None:
    """A pool's initializer: when the parent is killed, no worker stays behind."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
