"""`kit bench ingest`: photos on disk to squares of uint8 on disk, by the kit and by PIL in threads."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from kit.bench.clock import Way, measure
from kit.bench.material import in_a_fresh_process, memory, training_photos, workers_of
from kit.bench.outcome import Outcome, rates
from kit.config.schema import Config
from kit.console import Log, counted
from kit.data.cache import decode_into, load_photos
from kit.data.splits import Split
from kit.device import Device

LONGER = 4  # times as many photos, to see whether memory grows with them


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    split, side, workers = training_photos(data, config), config.data.cache_side, workers_of(config)

    def whole(folder: Path) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        load_photos([split], side, folder / "cache", Log(silent=True), workers=workers)

    def decoding(folder: Path) -> None:
        decode_into(folder / "pixels.npy", split, side, workers, lambda: None)

    def pil(folder: Path) -> None:
        decode_by_threads(folder / "pixels.npy", split, side, workers)

    threads = counted(workers, "thread")
    baseline = f"PIL, {threads}"
    ways = [
        Way("kit, decoding", f"{threads}, into a file that is hashed and flushed", in_a_folder(cache, decoding), len(split)),
        Way("kit, the whole cache", "the same, and every photo hashed before", in_a_folder(cache, whole), len(split)),
        Way(baseline, "decoded whole, reduced bilinearly with antialias, into a file that is flushed", in_a_folder(cache, pil), len(split)),
    ]
    rows = rates(measure(ways, rounds, device.device, seconds))
    stored = len(split) * side * side * 3
    facts = {
        "on disk": f"{sum(path.stat().st_size for path in split.paths) / 1e6:,.1f} MB of photos, {stored / 1e6:,.1f} MB of squares",
    }
    for times in (1, LONGER):
        longer = Split(split.name, split.paths * times, np.tile(split.labels, times))
        peak = in_a_fresh_process(peak_of_ingest, longer, side, workers, cache)
        facts[f"peak memory, {counted(len(longer), 'photo')}"] = f"{peak:,.0f} MB, the whole process with torch"
    return Outcome("ingest", f"Photos decoded once into squares of {side} px", "photos/s", baseline, rows, facts)


def in_a_folder(beside: Path, work: Callable[[Path], None]) -> Callable[[], AbstractContextManager[Callable[[], None]]]:
    """A way that is given a folder on the cache's own disk."""

    @contextmanager
    def opened() -> Iterator[Callable[[], None]]:
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=beside) as folder:
            yield lambda: work(Path(folder))

    return opened


def decode_by_threads(file: Path, split: Split, side: int, threads: int) -> None:
    """The plain way: every photo whole, squeezed into the square with antialias."""
    out = np.lib.format.open_memmap(file, "w+", np.uint8, (len(split), side, side, 3))

    def decode(row: int) -> None:
        with Image.open(split.paths[row]) as photo:
            out[row] = np.asarray(photo.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, range(len(split))))
    out.flush()


def peak_of_ingest(split: Split, side: int, workers: int, folder: Path) -> float:
    """MB of this process at its peak."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=folder) as place:
        decode_into(Path(place) / "pixels.npy", split, side, workers, lambda: None)
    return memory("VmHWM")
