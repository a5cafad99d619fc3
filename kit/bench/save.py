"""`kit bench save`: a checkpoint of a student in training, and its share of the time."""

import statistics
import tempfile
from pathlib import Path

import torch

from kit.bench.clock import Way, always, measure
from kit.bench.outcome import Outcome, milliseconds, number
from kit.config.schema import Config
from kit.console import Log
from kit.device import Device
from kit.models.widths import new_student
from kit.train.checkpoint import Checkpoints
from kit.train.state import Training, begin

CLASSES = 11
PLAIN, KIT = "torch.save", "kit"


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=cache) as folder:
        state, place = in_training(config, device), Path(folder)
        checkpoints = Checkpoints(place, "distil", {}, config.model_dump(mode="json"), Log(silent=True))
        ways = [
            Way(KIT, "canonical, hashed, flushed, renamed; two generations", always(lambda: save_next(state, checkpoints))),
            Way(
                PLAIN,
                "as people call it: neither whole nor on the disk for sure",
                always(lambda: torch.save(state.state(), place / "plain.pt")),
            ),
        ]
        rows = milliseconds(measure(ways, rounds, device.device, seconds))
        size = checkpoints.files()[-1].path.stat().st_size
    median = statistics.median(rows[0].values) / 1000
    facts = {"bytes": f"{size:,}"} | cost_of(median, config.train.save_seconds)
    return Outcome("save", f"A checkpoint of {config.recipe} in training", "ms", PLAIN, rows, facts)


def cost_of(seconds: float, every: float) -> dict[str, str]:
    """What a checkpoint adds to a run that saves every so many seconds, 0 for after each step."""
    if not every:
        return {"one after each step": f"{number(1000 * seconds)} ms more"}
    return {f"one every {every:g} s (train.save_seconds)": f"{seconds / every:.3%} of the time"}


def save_next(state: Training, checkpoints: Checkpoints) -> None:
    """A generation of its own each time: of the same step it would be the same file."""
    state.step += 1
    checkpoints.save(state.step, state.state())


def in_training(config: Config, device: Device) -> Training:
    """A state of full size: an optimiser that has taken a step, the best weights, and the states at the last two epochs' ends."""
    student = new_student(config.student, CLASSES)
    state = begin(student, torch.nn.Module(), config.train, 1, device)
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    state.offer(student, {"accuracy": 0.5}, 1)
    for _ in range(2):
        state.remember()
    return state
