"""The average of the weights at epochs' ends (stochastic weight averaging, Izmailov et al. 2018), and batch norm measured anew.

The plain mean is a part of the training's state, so a run that was stopped averages the same weights. Its batch norms would otherwise
keep the statistics of the last network, which are not those of the mean.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kit.compress.recalibrate import BATCHES, recalibrate
from kit.config.schema import Train
from kit.world import World


def batches_to_measure(train: Train, average: AveragedModel | None) -> int:
    """How many batches batch norm is measured on at the plan's end: none where nothing was averaged and nothing is asked for."""
    return train.recalibrate or (BATCHES if average and average.n_averaged else 0)


def remeasure(model: nn.Module, batches: Callable[[int], tuple[Tensor, Tensor]], steps: int, world: World) -> None:
    """`recalibrate` over the whole batches of several processes: the mean of what each has seen on its share."""
    recalibrate(model, batches, steps)
    world.average(buffer for buffer in model.buffers() if buffer.is_floating_point())
