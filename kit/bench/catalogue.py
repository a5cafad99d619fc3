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

BENCHES: dict[str, Callable[[Config, Path, Path, Device, int, float], Outcome]] = {
    "feed": feed.bench,
    "ingest": ingest.bench,
    "step": step.bench,
    "save": save.bench,
    "predict": predict.bench,
}


def run(name: str, config: Config, data: Path, cache: Path, rounds: int, seconds: float = SECONDS) -> Outcome:
    """One benchmark, with what its numbers come with.

    Raises:
        KitError: there is no such benchmark, or too few photos for it.
    """
    if name not in BENCHES:
        raise KitError(f"There is no benchmark {name!r}. Choose one of {', '.join(BENCHES)}.")
    device = choose_device()
    outcome = BENCHES[name](config, data, cache, device, rounds, seconds)
    return replace(outcome, made=making(device))
