"""What a benchmark works on: the photos below --data, and processes of its own to measure memory in."""

import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kit.config.schema import Config
from kit.console import Log
from kit.data.cache import Photos, load_photos, scan
from kit.data.folders import read_folder
from kit.data.layout import find_dataset
from kit.data.records import is_record
from kit.data.splits import Split, stratify
from kit.errors import KitError
from kit.processes import cores, die_with_parent, signals_held


def training_photos(data: Path | None, config: Config) -> Split:
    """The training photos of the data set below a folder, or the photos that lie in it, whose labels are then all 0; as a run takes them:
    the recipe's share, without those that don't decode where the recipe leaves them out.

    Raises:
        KitError: there is no folder, there are fewer than a batch, or one doesn't decode.
    """
    share, seed = config.data.subset, config.train.seed
    if data is None:
        raise KitError("This benchmark needs --data DIR, the folder that holds the data set, at any depth, or photos alone.")
    if data.is_dir() and (paths := read_folder(data).photos):
        split = Split("training", paths, np.zeros(len(paths), np.int64))
    else:
        split = find_dataset(data, None, config.data.holdout, seed).training
    if is_record(split.paths[0]):
        raise KitError(f"{data} holds CIFAR's binary records, and the loaders that the kit is measured against read photos from files.")
    if share < 1:
        split = split.take(stratify(split, 1 - share, seed, "--subset")[0])
    split, _ = scan(split, Log(), workers=config.data.workers, skip_bad=config.data.skip_bad)  # else the rivals would end at a bad one
    if len(split) < config.train.batch_size:
        raise KitError(
            f"{data} has {len(split)} photos, a batch is {config.train.batch_size}: give more, or --set train.batch_size={len(split)}."
        )
    return split


def decoded(split: Split, config: Config, cache: Path) -> Photos:
    return load_photos([split], config.data.cache_side, cache, Log(silent=True))[split.name]


def classes_of(split: Split) -> int:
    return max(2, int(split.labels.max()) + 1)


def workers_of(config: Config) -> int:
    return config.data.workers or cores()


def in_a_fresh_process(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, get_context("spawn"), die_with_parent) as pool:
        with signals_held():
            coming = pool.submit(work, *given)
        return coming.result()


def memory(kind: str) -> float:
    """MB of this process: "VmRSS" now, "VmHWM" at its peak, "RssAnon" now and without files that are mapped. 0 where Linux doesn't tell."""
    try:
        found = re.search(rf"^{kind}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else 0.0
