"""What is done when a loss is no number any more, or explodes: back an epoch and on with smaller steps, once."""

import math

from kit.config.stages import kind_of
from kit.console import Log
from kit.device import Device
from kit.errors import KitError
from kit.train.state import Training

EXPLODED = 10  # times what a loss was at the first step
GUESSING = math.log(10)  # and no less than this: a trained network's first loss is next to nothing, and ten times that is no matter
SMALLER = 0.3  # of the learning rate after a run has diverged
RATES = {"finetune": "prune.finetune_lr", "lowrank": "lowrank.train_lr", "qat": "quantize.train_lr"}  # of stages that have one of their own


def sound(state: Training, stage: str, device: Device, log: Log) -> bool:
    """Whether the run is where it should be. If not, it is back at the end of the epoch before the last one, with a smaller step, once.

    Where it goes back to depends on the step alone, whenever it is asked: a run that diverges takes the same steps after a kill.

    Raises:
        KitError: the second time.
    """
    trouble = find_trouble(state)
    if trouble is None:
        return True
    if state.good is None:
        plan = "teacher.train" if stage == "teacher" else "train"
        rate = RATES.get(kind_of(stage), f"{plan}.lr")
        raise KitError(
            f"{stage}: {trouble} at step {state.step:,}, again after the learning rate was cut to {state.rate:g} of the plan's. The "
            f"checkpoint before is kept. Begin again in another --out with a smaller --set {rate}=… or with --set {plan}.clip_norm=1."
        )
    at = state.step
    state.load(state.good, device.device)
    state.rate, state.good = SMALLER, None
    log(
        f"{stage}: {trouble} at step {at:,}. Back to step {state.step:,}, and on from there with {SMALLER:g} of the learning rate; "
        "a second time the run stops"
    )
    return False


def find_trouble(state: Training) -> str | None:
    """A loss that is no number; or, at an epoch's end, one that is ten times what it was at the start. Waits for the device."""
    losses = state.means()
    for name, value in losses.items():
        if not math.isfinite(value):
            return f"the loss {name!r} is no number any more"
    if state.step % state.steps_per_epoch:
        return None
    for name, value in losses.items():
        first, weighted = float(state.first[name]), name == "loss" and len(losses) > 1  # the terms' weights may grow with the plan
        if not weighted and first > 0 and value > max(GUESSING, EXPLODED * first):
            return f"the loss {name!r} has exploded from {first:.4g} at the first step to {value:.4g}"
    return None
