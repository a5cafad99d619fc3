"""Files that are either whole or not there: written to a temporary name, flushed, renamed, the folder flushed."""

import hashlib
import json
import os
from pathlib import Path

from kit.errors import KitError


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`. A kill or a full disk at any moment leaves the old file or the new one.

    Raises:
        OSError: with the file's name, for example when the disk is full; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    flush_folder(path.parent)


def make_folder(path: Path) -> Path:
    """The folder, made with its parents where it isn't there.

    Raises:
        KitError: it can't be, for example because a file has that name or a mount has vanished.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"The folder {path} can't be made ({error.strerror}). Choose another place with --out or --cache.") from None
    return path


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut. Windows can't open a folder and needs none of this."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: object) -> None:
    write_durably(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
