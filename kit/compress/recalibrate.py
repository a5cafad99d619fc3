"""Batch norm's statistics measured anew: a network that was cut or averaged has other activations than its statistics were taken of."""

import torch
from torch import Tensor, nn

from kit.data.loader import Batches
from kit.models.look import evaluated, hooked

BATCHES = 20  # that suffice: at 128 photos each the statistics are within a percent of an epoch's


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Batches, steps: int) -> None:
    """Replace the running mean and variance of every batch norm that trains by the plain average over `steps` training batches.
    torch.optim.swa_utils.update_bn does the same to every norm, the frozen ones included.

    Args:
        batches: step → (images [N, 3, H, W] as in training, labels).
    """
    every = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = [norm for norm in every if norm.weight.requires_grad]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.train()
    for norm in set(every) - set(norms):
        norm.eval()
    for step in range(steps):
        model(batches(step)[0])
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def begin_to_measure(model: nn.Module, batches: Batches, steps: int) -> None:
    """Give batch norms that have seen nothing, as those of a student that was unfolded, the mean and variance of what they are given, and
    take them back in their weights: the network answers as before, to rounding. Else statistics that are measured anew would change what
    every layer does, and γ, all of one size, would rank nothing.

    Args:
        batches: as above.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad and not m.num_batches_tracked]
    if not norms:
        return
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[norm].append(torch.var_mean(given[0].float(), (0, 2, 3), correction=0))

    with hooked([norm.register_forward_pre_hook(look) for norm in norms]), evaluated(model):
        for step in range(steps):
            model(batches(step)[0])
    for norm in norms:
        variances, means = map(torch.stack, zip(*seen[norm], strict=True))
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += scale * (mean - norm.running_mean)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.num_batches_tracked += steps
