"""`kit pull`: what a session left, filed with where it came from."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from kit import ledger
from kit.errors import KitError
from kit.files import make_folder, read_object, write_durably
from kit.names import PROVENANCE, RECORD, SUBMISSION
from kit.remote.client import Kaggle
from kit.remote.output import contents
from kit.remote.push import newest_version

WANTED = r"submission\.csv|student\.kit|run\.json|report\.html"


def pull(kaggle: Kaggle, ref: str, name: str, folder: Path, pattern: str = WANTED, out: Path | None = None) -> list[Path]:
    """Fetch a kernel's output into `folder`/<date>-`name`, with the kernel's version in its provenance and a line in the ledger. Where the
    CSV of another session lies there that stays, the folder's name gets a number.

    Args:
        ref: owner/slug for the newest session's, or owner/slug/version.
        pattern: a regular expression that a file's whole name must fit.
        out: another folder to fetch into; the ledger is then left alone.
    Raises:
        KitError: Kaggle refused, nothing fits, a file is not what its run wrote, or `out` is the folder of a run at home: then nothing is
            kept.
    """
    if out and (out / RECORD).exists() and "kernel" not in told(out):
        raise KitError(f"{out} holds a run that was not pulled, whose files would be replaced. Choose another --out.")
    owner, slug, *named = ref.split("/")
    kernel = f"{owner}/{slug}"
    if not (version := int(named[0]) if named else newest_version(kaggle, kernel).number):
        raise KitError(f"There is no kernel {kernel} on Kaggle that this account may see. Push it first: kit push {name}.")
    files = dict(contents(kaggle, ref, pattern))
    made = read_object(files.get(PROVENANCE, b"{}"))
    made |= {"kernel": kernel, "kernel_version": version, "pulled": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())}
    files[PROVENANCE] = (json.dumps(made, indent=2, ensure_ascii=False) + "\n").encode()
    csv, place = files.get(SUBMISSION), out or folder / f"{time.strftime('%Y-%m-%d')}-{name}"
    sha256 = hashlib.sha256(csv or b"").hexdigest()
    if out is None and csv is not None:
        place = ledger.free_place(folder, place.name, sha256)
    elif out is None:
        place = next(place for place in ledger.numbered(folder, place.name) if not holds_another(place, made))
    elif csv is None and holds_another(place, made):
        del files[PROVENANCE]  # what lies there tells where that CSV came from
    for file in files:
        if not (place / file).resolve().is_relative_to(place.resolve()):
            raise KitError(f"Kaggle lists a file {file!r}, which would be written outside of {place}. Nothing is kept.")
    for file, content in files.items():
        write_durably(make_folder((place / file).parent) / (place / file).name, content)
    if out is None and csv is not None and not made.get("partial"):
        ledger.enter(folder, made | {"submission": place.name, "csv_sha256": sha256})
    return [place / file for file in files]


def holds_another(place: Path, made: dict[str, Any]) -> bool:
    """Whether a folder has the CSV of another session than the one that `made` tells of."""
    before = told(place)
    return (place / SUBMISSION).exists() and any(before.get(name) != made[name] for name in ("kernel", "kernel_version"))


def told(place: Path) -> dict[str, Any]:
    """What a folder's provenance.json says; nothing where there is none."""
    file = place / PROVENANCE
    return read_object(file.read_bytes()) if file.is_file() else {}
