"""Files that are either whole or not there: written to a temporary name, flushed, renamed, the folder flushed. And where caches lie."""

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from kit.errors import KitError

TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)\.tmp")
PAUSE = 0.1  # seconds between two looks at a lock
OTHER = "another place: by --out or --cache, or from another working folder"  # not every command has both, or any
ELSEWHERE = f"Choose {OTHER}"
PERMIT = f"Mend its permissions, or choose {OTHER}"
FREE = f"Free some space, or choose {OTHER}"
GONE = f"The folder or its mount has vanished. Bring it back, or choose {OTHER}"
REMEDIES = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.EFBIG: f"A file may not grow that large there (a quota or ulimit). {ELSEWHERE}",
    errno.EROFS: ELSEWHERE,
    errno.EACCES: PERMIT,
    errno.EPERM: PERMIT,
} | dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENOTCONN, errno.ESTALE, errno.EIO), GONE)


class StorageError(KitError):
    """A file could not be written. What stood there before is untouched."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> Self:
        remedy = REMEDIES.get(error.errno or 0, ELSEWHERE)
        return cls(f"{path} can't be written ({error.strerror}); what was saved before is untouched. {remedy}.")


class Busy(Exception):
    """Another process holds the lock."""


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`. A kill or a full disk at any moment leaves the old file or the new one.

    Raises:
        StorageError: for example when the disk is full; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError.of(path, error) from None


def sweep(folder: Path) -> None:
    """Remove from a folder what `write_durably` left there in processes that were killed."""
    for file in folder.glob(".*.tmp"):
        found = TEMPORARY.fullmatch(file.name)
        if found and (int(found["process"]) == os.getpid() or not runs(int(found["process"]))):  # a container's are often numbered alike
            with suppress(OSError):
                file.unlink()


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it isn't there.

    Raises:
        KitError: it can't be, for example because a file has that name or a mount has vanished.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"The folder {path} can't be made ({error.strerror}). {ELSEWHERE}.") from None
    return path


def cache_folder(given: Path | None) -> Path:
    """Where caches live: `given`, else temporary disk on Kaggle (its output folder is small and kept), else the user's cache."""
    if given is not None:
        return given
    if Path("/kaggle/working").is_dir():
        return Path(tempfile.gettempdir()) / "kit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kaggle-submission-kit"


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that flushes files alone
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(place: Path, wait: Callable[[], object] | None = None, tick: Callable[[], object] = lambda: None) -> Iterator[bool]:
    """Hold a folder or a file alone, until the block or the process ends. A file system without locks is taken as it is: False, then.

    Args:
        wait: called where another process holds it, whose end is then waited for; None: it is not.
        tick: called again and again meanwhile; it may raise to stop waiting.
    Raises:
        Busy: another process holds it.
    """
    descriptor, held = os.open(place, os.O_RDONLY), False
    try:
        with suppress(OSError):
            if not taken(descriptor):
                if wait is None:
                    raise Busy
                wait()
                while not taken(descriptor):
                    tick()
                    time.sleep(PAUSE)
            held = True
        yield held
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it to a child that another thread is just starting
        os.close(descriptor)


def taken(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, value: object) -> None:
    """What is no UTF-8, as a file's name may be, is escaped as JSON has it."""
    write_durably(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def read_object(content: bytes) -> dict[str, Any]:
    """The object in a JSON file; empty where that holds none."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_place(page: Path, name: str) -> tuple[str, str]:
    """A document without what stands in a place of it: all up to the line `<!-- NAME -->`, and all from `<!-- end -->` on.

    Raises:
        KitError: it has no such place, or can't be read.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KitError(f"{page} is no document that could be read ({error}). Name one, such as docs/performance.md.") from None
    found = re.fullmatch(rf"(.*?<!-- {re.escape(name)} -->\n).*?(<!-- end -->.*)", text, re.DOTALL)
    if not found:
        raise KitError(f"{page} has no place for this table: write the lines <!-- {name} --> and <!-- end --> into it.")
    return found[1], found[2]


def fill_place(page: Path, name: str, content: str) -> None:
    """Replace what stands in a document between `<!-- NAME -->` and `<!-- end -->`. Errors as of `find_place`."""
    before, after = find_place(page, name)
    write_durably(page, f"{before}\n{content}\n\n{after}".encode())
