"""The plan's end: batch norm measured anew in the best epoch's weights, or in the average of those at epochs' ends (stochastic weight
averaging, Izmailov et al. 2018).

The plain mean is a part of the training's state, so a run that was stopped averages the same weights. Its batch norms would otherwise
keep the statistics of the last network, which are not those of the mean.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn

from kit.compress.recalibrate import BATCHES, recalibrate
from kit.data.loader import Batches
from kit.rng import derive
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.state import Training
from kit.world import World


def measure_norms(
    state: Training,
    batches: Batches,
    evaluate: Callable[[nn.Module], dict[str, float]],
    checkpoints: Checkpoints,
    budget: Budget,
) -> None:
    """Where weights were averaged or the plan asks for it: what may be deployed is measured anew, and is the best where its accuracy is.

    Raises:
        Suspended: there is no time for it; the state is saved.
    """
    train, stage, averaged = state.plan, checkpoints.stage, bool(state.average and state.average.n_averaged)
    if not (steps := min(state.steps_per_epoch, train.recalibrate or BATCHES * averaged)):
        return
    owed = [f"{stage} evaluate", *[f"{stage} step"] * steps, "hand in"]
    if not budget.fits(*owed):
        state.save(checkpoints, budget)
    budget.insist(f"batch norm of {stage} was measured anew", *owed)
    torch.manual_seed(derive(train.seed, "measure"))
    remeasure(last := candidate(state), batches, steps, budget.world)
    epoch = state.epoch if averaged else state.best["epoch"]  # whose weights these are
    state.offer(last, {} if train.final_fit else evaluate(last), epoch)


def candidate(state: Training) -> nn.Module:
    """What may be deployed at the plan's end once its batch norms are measured anew: the epochs' average, else the best epoch's weights."""
    if state.average and state.average.n_averaged:
        return state.average.module
    best = copy.deepcopy(state.network)
    best.load_state_dict(state.best["weights"])
    return best


def remeasure(model: nn.Module, batches: Batches, steps: int, world: World) -> None:
    """`recalibrate` over the whole batches of several processes: the mean of what each has seen on its share."""
    recalibrate(model, batches, steps)
    world.average(buffer for buffer in model.buffers() if buffer.is_floating_point())
