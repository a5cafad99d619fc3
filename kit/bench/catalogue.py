"""The benchmarks by name, and one of them carried out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kit.bench import feed, ingest, predict, save, step
from kit.bench.clock import SECONDS
from kit.bench.outcome import Outcome, making
from kit.config.schema import Config
from kit.device import Device, choose_device
from kit.errors import KitError

Bench = Callable[[Config, Path | None, Path, Device, int, float], Outcome]  # config, data, cache, device, rounds, seconds

BENCHES: dict[str, Bench] = {
    "feed": feed.bench,
    "ingest": ingest.bench,
    "step": step.bench,
    "save": save.bench,
    "predict": predict.bench,
}


def find_bench(name: str) -> Bench:
    """
    Raises:
        KitError: there is no such benchmark.
    """
    if name not in BENCHES:
        raise KitError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHES)}.")
    return BENCHES[name]


def run(name: str, config: Config, data: Path | None, cache: Path, rounds: int, seconds: float = SECONDS) -> Outcome:
    """One benchmark, with what its numbers come with. data: None will do for `save`.

    Raises:
        KitError: there is no such benchmark, or no or too few photos for it, or one that doesn't decode.
    """
    bench, device = find_bench(name), choose_device()
    return replace(bench(config, data, cache, device, rounds, seconds), made=making(device))
