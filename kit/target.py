"""The file that a user asks a command to write: what an earlier command left there is replaced, a run's own files never are."""

import os
import stat
from pathlib import Path

from kit.errors import KitError
from kit.files import make_folder
from kit.names import OWN, PROVENANCE, RECORD, STUDENT
from kit.train.checkpoint import NAME


def refuse_overwriting(out: Path, *sources: Path, option: str = "--out") -> None:
    """Make the folder for a file that a user names by an option, who may write over what an earlier command left, but not over a run.

    sources: what the command reads, each a file or a run's folder.
    Raises:
        KitError: `out` is read by the command, belongs to a run, or is no file that could be replaced.
    """
    own = out.name in OWN and any((out.parent / name).is_file() for name in (RECORD, PROVENANCE))
    if own or NAME.fullmatch(out.name):
        raise KitError(f"{out} is a run's own file, or would pass for one. Give {option} another name.")
    make_folder(out.parent)
    try:
        there = out.stat()
    except OSError:  # nothing is there; or no name that could be, which writing says
        return
    if not stat.S_ISREG(there.st_mode):
        raise KitError(f"{out} is no file that could be replaced. Give {option} the name of a file.")
    for file in (place for source in sources for place in (source, source / STUDENT) if place.exists()):
        if os.path.samestat(there, file.stat()):
            raise KitError(f"{out} is what this command reads, and would be replaced. Give {option} another name.")
