"""Photos are decoded once, into squares of uint8 that every later epoch reads as plain memory.

A cache is a folder named by the sha256 of the photos' names and bytes and the settings, so it can't be stale and two runs share it. It
is built beside its final name and renamed when whole: an interrupted build leaves nothing that looks like a cache. Squares, since crops
are drawn in the photo's own coordinates and need only its width and height beside the pixels.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kit.console import Log, counted, progress
from kit.data.decode import photo_digest, photo_size, to_squares
from kit.data.splits import Split
from kit.errors import KitError
from kit.files import FREE, StorageError, flush_folder, locked, make_folder, sha256_of, write_durably
from kit.processes import cores

VERSION = 4
CHUNK = 16  # photos a thread takes at once
READERS = 16  # threads that read files alone: a mounted disk answers slowly, and many at a time
AHEAD = 3  # chunks for each thread that are under way or done and not yet written
HALF_MADE = re.compile(r"\.\w+-\d+px-[0-9a-f]{16}")
Tick = Callable[[], None]


@dataclass(frozen=True)
class Photos:
    """A decoded split. N photos in its order; those of training and validation all decode.

    pixels: uint8 [N, S, S, 3], a read-only memory map. sizes: int64 [N, 2], width and height of each original.
    labels: int64 [N], -1 for none. names: as `Split` has them. bad: row → reason, where a photo does not decode (black, evaluation only).
    digest: of the photos' bytes, their names and the settings.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    bad: dict[int, str]
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether any photo has a label."""
        return bool((self.labels >= 0).any())


def load_photos(
    splits: Sequence[Split], side: int, folder: Path, log: Log, *, workers: int = 0, skip_bad: bool = False, tick: Tick = lambda: None
) -> dict[str, Photos]:
    """Splits decoded, by name; built where they aren't there yet.

    Args:
        side: upper limit of the squares' side, px; pixels are never enlarged into them.
        workers: decoding threads, 0 for one per core.
        skip_bad: leave photos that do not decode out of training and validation.
        tick: called every few photos; it may raise to stop the work (the session's budget).
    Raises:
        KitError: photos of training or validation that do not decode, all of them named.
    """
    make_folder(folder)
    photos = {split.name: load_split(split, side, folder, log, workers, tick) for split in splits}
    judge([(split, photos[split.name].bad) for split in splits], skip_bad, log)
    return {name: without(part, part.bad) if part.bad and name != "evaluation" else part for name, part in photos.items()}


def scan(split: Split, log: Log, *, workers: int = 0, skip_bad: bool = False, tick: Tick = lambda: None) -> tuple[Split, str]:
    """For a loader without a cache: the split without its unreadable photos (judged as in `load_photos`) and its content's digest."""
    digest = content_digest(split, 0, tick)
    bad = {row: square for row, square in enumerate(decode(split, 16, workers, tick)) if isinstance(square, str)}
    judge([(split, bad)], skip_bad, log)
    return (split.take(np.setdiff1d(np.arange(len(split)), list(bad))) if bad else split), digest


def judge(found: Sequence[tuple[Split, dict[int, str]]], skip_bad: bool, log: Log) -> None:
    """Name every photo that does not decode; stop where that can't be lived with."""
    for split, bad in found:
        if bad:
            log(f"{split.name}: {len(bad)} of {counted(len(split), 'photo')} can't be decoded:")
            for row, reason in bad.items():
                log(f"  {split.paths[row]}: {reason}")
    for split, bad in found:
        if len(bad) == len(split):
            raise KitError(f"Not one of the {len(split)} {split.name} photos decodes, {split.paths[0]} for one. Are they really photos?")
    broken = [split.paths[row] for split, bad in found if split.name != "evaluation" for row in bad]
    if broken and not skip_bad:
        one, many = "photo of training and validation does not decode", "photos of training and validation do not decode"
        raise KitError(
            f"{counted(len(broken), one, many)}, {broken[0]} for one (all are listed above). Fetch them again, or go "
            "on without them with --set data.skip_bad=true."
        )


def without(photos: Photos, rows: dict[int, str]) -> Photos:
    """Names and labels of the squares that are there: those were written without these rows, so the map is as long."""
    keep = np.setdiff1d(np.arange(len(photos)), list(rows))
    return replace(photos, names=tuple(photos.names[i] for i in keep), labels=photos.labels[keep], bad={})


def load_split(split: Split, side: int, folder: Path, log: Log, workers: int, tick: Tick) -> Photos:
    side = fit_side(split, side, tick)
    digest = content_digest(split, side, tick)
    place = folder / f"{split.name}-{side}px-{digest[:16]}"
    if find_damage(place, split):
        with locked(folder, wait=lambda: log(f"another run decodes photos into {folder}: waiting for it"), tick=tick) as held:
            if held:  # then no other process builds any
                remove_half_made(folder, log)
            if damage := find_damage(place, split):  # still: the other one's were others
                if place.exists():
                    log(f"the cache {place} is damaged ({damage}) and is built again")
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
                build(split, side, place, log, workers, tick)
    index = read_index(place)
    pixels = np.load(place / "pixels.npy", mmap_mode="r", allow_pickle=False)
    return Photos(
        pixels,
        np.array(index["sizes"], dtype=np.int64),
        split.labels,
        split.names,
        {int(row): reason for row, reason in index["bad"].items()},
        digest,
    )


def remove_half_made(folder: Path, log: Log) -> None:
    """What builds have left that were killed: as large as a cache, and of photos that nobody may ask for again."""
    for place in folder.iterdir():
        if HALF_MADE.fullmatch(place.name):
            log(f"the cache {place}, which was left half made, is removed")
            shutil.rmtree(place, ignore_errors=True)


def fit_side(split: Split, side: int, tick: Tick) -> int:
    """No larger than the largest photo: squares of 64 px photos need not be 256 px wide. The first that is as large ends the search."""
    largest = 0
    with ThreadPoolExecutor(READERS) as pool:
        for i in range(0, len(split), CHUNK):
            tick()
            largest = max(largest, *map(max, pool.map(photo_size, split.paths[i : i + CHUNK])))
            if largest >= side:
                break
    return max(16, min(side, largest))


def content_digest(split: Split, side: int, tick: Tick) -> str:
    """sha256 over the settings and every photo's name and bytes; where the folder lies does not matter, since mounts move."""
    whole = hashlib.sha256(f"kit cache {VERSION}, {side} px, by area".encode())
    with progress(f"reading {split.name}", len(split)) as moved, ThreadPoolExecutor(READERS) as pool:
        for done, (path, digest) in enumerate(zip(split.paths, pool.map(photo_digest, split.paths), strict=True), 1):
            tick()
            moved(done)
            whole.update(f"\n{path.name} {digest}".encode())
    return whole.hexdigest()


def find_damage(place: Path, split: Split) -> str | None:
    """Why a split's cache can't be used, None where it can; for one that isn't there, too."""
    try:
        index = read_index(place)
        if sha256_of(place / "pixels.npy") != index["sha256"]:
            return "its pixels are not what was written"
        pixels = np.load(place / "pixels.npy", mmap_mode="r", allow_pickle=False)
        rows = len(split) - (len(index["bad"]) if split.name != "evaluation" else 0)
        if pixels.shape != (rows, index["side"], index["side"], 3) or pixels.dtype != np.uint8 or len(index["sizes"]) != rows:
            return "its pixels are not those of its index"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


def read_index(place: Path) -> dict[str, Any]:
    """The one `index-<sha256>.json` of a cache.

    Raises:
        ValueError: there is none, or its content is not what its name says.
    """
    for file in place.glob("index-*.json"):
        content = file.read_bytes()
        if file.name == index_name(content):
            return json.loads(content)
    raise ValueError("its index is missing or not what was written")


def index_name(content: bytes) -> str:
    return f"index-{hashlib.sha256(content).hexdigest()[:16]}.json"


def build(split: Split, side: int, place: Path, log: Log, workers: int, tick: Tick) -> None:
    """Decode a split with `workers` threads into a new folder, then give it its name.

    Raises:
        StorageError: the disk is full, or would be: told before the work.
    """
    temporary = place.with_name(f".{place.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # it is there still where files have no locks
    wanted, free = len(split) * side**2 * 3, shutil.disk_usage(place.parent).free
    if wanted > free:
        raise StorageError(
            f"{len(split):,} {split.name} photos take {in_words(wanted)} in squares of {side} px, and the disk of {place.parent} has "
            f"{in_words(free)} free. {FREE}; --set data.feed=decode keeps none of training."
        )
    temporary.mkdir()
    try:
        sizes, bad, digest = decode_into(temporary / "pixels.npy", split, side, workers, tick)
        index = {"version": VERSION, "side": side, "sizes": sizes, "bad": bad, "sha256": digest}
        content = json.dumps(index).encode()
        write_durably(temporary / index_name(content), content)
        os.replace(temporary, place)
        flush_folder(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log(f"decoded {counted(len(split), f'{split.name} photo')} into squares of {side} px")


def in_words(size: int) -> str:
    """Bytes: GB, or MB where those would be 0.0."""
    return f"{size / 1e9:,.1f} GB" if size >= 50e6 else f"{size / 1e6:,.1f} MB"


def decode_into(file: Path, split: Split, side: int, workers: int, tick: Tick) -> tuple[list[tuple[int, int]], dict[int, str], str]:
    """Write pixels.npy in the order of the split: its sizes, what is bad, and the file's sha256. One thread writes, so a full disk is an
    error here and not a signal there."""
    sizes: list[tuple[int, int]] = []
    bad: dict[int, str] = {}
    digest = hashlib.sha256(header := header_of(len(split), side))
    try:
        with open(file, "wb") as out:
            out.write(header)
            for row, square in enumerate(decode(split, side, workers, tick)):
                if isinstance(square, str):
                    bad[row] = square
                    if split.name != "evaluation":
                        continue  # leaving it out of a whole map would copy all others into memory
                    square = np.zeros((side, side, 3), np.uint8), side, side
                content = np.ascontiguousarray(square[0]).data
                out.write(content)
                digest.update(content)
                sizes.append((square[1], square[2]))
            if fewer := len(sizes) < len(split):
                out.seek(0)
                out.write(header_of(len(sizes), side))
            out.flush()
            os.fsync(out.fileno())
        return sizes, bad, sha256_of(file) if fewer else digest.hexdigest()
    except OSError as error:
        raise StorageError.of(file, error) from None


def header_of(count: int, side: int) -> bytes:
    """numpy's, which leaves room for a count of any length: it is as long for all of them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (count, side, side, 3)})
    return header.getvalue()


def decode(split: Split, side: int, workers: int, tick: Tick) -> Iterator[tuple[np.ndarray, int, int] | str]:
    """`to_square` of every photo in order, by threads: PIL and cv2 let go of Python's lock while they work. Processes took half a second
    to begin and sent every square through a pipe.

    They are a few chunks ahead at most: where the disk is slower than they are, squares don't pile up in memory.
    """
    chunks = [list(split.paths[i : i + CHUNK]) for i in range(0, len(split), CHUNK)]
    workers = workers or cores()
    pool, coming = ThreadPoolExecutor(workers, "decode"), deque[Future[Any]]()
    try:
        with progress(f"decoding {split.name}", len(split)) as moved:
            for done in range(len(chunks)):
                while chunks and len(coming) < AHEAD * workers:
                    coming.append(pool.submit(to_squares, chunks.pop(0), side))
                tick()
                squares = coming.popleft().result()
                moved(done * CHUNK + len(squares))
                yield from squares
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
