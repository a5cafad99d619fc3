"""Entry point of the command: the verbs, and how a mistake ends."""

import atexit
import errno
import gc
import os
import sys
from io import TextIOWrapper
from itertools import pairwise

STOPPED = 130  # the exit code into which typer makes a Ctrl-C, without a word
try:
    # isort: off
    from kit.cli import runs, files, bench, kaggle  # noqa: F401  the verbs, in the order that --help shows

    # isort: on

    from kit.cli.app import app
    from kit.errors import KitError
    from kit.files import REMEDIES
    from kit.remote.credentials import hide
except KeyboardInterrupt:  # from a disk that is slow they take seconds
    print("error: stopped by Ctrl-C", file=sys.stderr)
    sys.exit(STOPPED)

# Turns that a thread of GNU's OpenMP spins before it sleeps. By itself it is a millisecond's, a hundred times a step. Beside another busy
# process, on two cores, a thread that waits so holds the core that the other one needs: a step took 2,100 ms in place of 88. With this it
# takes 215, and alone no longer than before; not to spin at all cost 13 % there.
SPINS = "3000"
# Objects that are made between two searches for garbage, of Python's 700. Imports make 400,000 that all stay, and searching them again and
# again took a second of each start; a training loop leaves no garbage that would have to be searched for.
BETWEEN_SEARCHES = 20_000
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # or read-only: writing alone ends so, and never by a bug
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENOTCONN, errno.ESTALE, errno.EIO)
READING = (
    dict.fromkeys(GONE, "The folder or its mount has vanished. Bring it back")
    | dict.fromkeys((errno.EACCES, errno.EPERM), "Mend its permissions")
    | {errno.ENAMETOOLONG: "Shorten it"}
)


def main() -> None:
    """Entry point: a user's mistake ends in one paragraph and exit code 1, never in a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):  # it is None where it was closed
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr's: a terminal that lacks a letter ends no run
    os.environ.setdefault("USER", str(os.getuid()))  # torch wants a name, and a container's user may have none
    if os.path.expanduser("~") == "~":  # nor a home: the one that docker gives such a user
        os.environ["HOME"] = "/"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded, which a verb does
    gc.set_threshold(BETWEEN_SEARCHES)
    atexit.register(gc.freeze)  # what is left when Python ends is the system's to free: taking it apart took 1.6 s that no budget counts
    try:
        refuse_unspeakable(sys.argv)
        refuse_empty(sys.argv)
        sys.argv = [at_home(word) for word in sys.argv]
        app()
    except KitError as error:
        fail(str(error))
    except OSError as error:
        if error.errno in FULL:
            place = error.filename or "A file can't be written"  # a library that writes to an open file does not name it
            fail(f"{place}: {error.strerror}. {REMEDIES[error.errno]}; what was saved before is untouched.")
        if error.filename is None or error.errno not in READING:
            raise
        fail(f"{error.filename}: {error.strerror}. {READING[error.errno]}, or name another place.")  # most of what writes says StorageError
    except SystemExit as end:
        if end.code != STOPPED:
            raise
        fail("stopped by Ctrl-C", STOPPED)


def refuse_unspeakable(words: list[str]) -> None:
    """Refuse a name whose bytes aren't UTF-8, since run.json, the log and a recipe hold it.

    Raises:
        KitError: one of the words is such a name.
    """
    if odd := next((word for word in words if word != word.encode(errors="replace").decode()), None):
        raise KitError(f"{odd!a} is not valid UTF-8, which run.json and the log need. Rename that file or folder.")


def refuse_empty(words: list[str]) -> None:
    """Refuse what a shell makes of a variable that is not set, as in --out "$OUT": an empty path would be the working folder.

    Raises:
        KitError: one of the words is empty, or an option's value after =.
    """
    for before, word in pairwise(words):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            what = f"The value of {option or before}" if (option or before).startswith("--") else f"The word after {before!r}"
            raise KitError(f"{what} is empty. Is a variable of the shell not set? Give a value, or leave it out.")


def at_home(word: str) -> str:
    """A path with the home folder in the place of its `~`, which a shell leaves in --data=~/photos and in quotes: in the working folder
    `~` would be made, or not be found."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value) if value == "~" or value.startswith("~/") else word


def fail(message: str, code: int = 1) -> None:
    if not another_says_it():
        print(hide(f"error: {message}"), file=sys.stderr)
    sys.exit(code)


def another_says_it() -> bool:
    """Of several processes the first does. A RANK without them, as a cluster's shell may have, silences none."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return rank.isdecimal() and size.isdecimal() and 0 < int(rank) < int(size)
