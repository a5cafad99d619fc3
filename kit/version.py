"""Which kit this is: a number comes with the commit that made it."""

import subprocess
from pathlib import Path

VERSION = "1.15.0"  # what CHANGELOG.md is headed with
STAMP = "COMMIT"  # a file beside this one, written into bundles: on Kaggle there is no repository to ask


def commit() -> str:
    """The kit's own commit, with `+` when files differ from it; a bundle's stamp; "unknown" where there is neither."""
    here = Path(__file__).resolve().parent
    if (here / STAMP).is_file():
        return (here / STAMP).read_text(encoding="utf-8").strip()
    try:
        top, head = git(here, "rev-parse", "--show-toplevel"), git(here, "rev-parse", "--short=12", "HEAD")
        changes = git(here, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changes else "") if Path(top) == here.parent else "unknown"


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
