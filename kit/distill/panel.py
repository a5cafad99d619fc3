"""One teacher or several, frozen, looked through as one."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Panel(nn.Module):
    """Each network sees the images in its own precision; logits come back in float32.

    The views of one network share a scale, so their logits are averaged. Different networks don't: in a mean of logits the loudest would
    decide, so their probabilities are averaged, and the logits are the logarithm of that (softmax of it is the mean again). Feature maps
    are the first network's, of the view as it is. side: px, at which they see it; None: as it comes.
    """

    def __init__(self, networks: Sequence[nn.Module], flip: bool = False, side: int | None = None):
        super().__init__()
        self.networks, self.flip, self.side = nn.ModuleList(networks).eval().requires_grad_(False), flip, side

    @property
    def first(self) -> nn.Module:
        return self.networks[0]

    @torch.no_grad()  # not inference mode: its tensors can't enter the student's losses
    def forward(self, images: Tensor) -> Tensor:
        images = self.sized(images)
        answers = [self.ask(network, images) for network in self.networks]
        return answers[0] if len(answers) == 1 else mean_of_probabilities(answers)

    def sized(self, images: Tensor) -> Tensor:
        """At the side at which the networks see them."""
        if self.side in (None, images.shape[-1]):
            return images
        return F.interpolate(images.float(), (self.side, self.side), mode="bilinear", antialias=True)

    def ask(self, network: nn.Module, images: Tensor) -> Tensor:
        seen = images.to(next(network.parameters()).dtype)
        answer = network(seen).float()
        return (answer + network(seen.flip(-1)).float()) / 2 if self.flip else answer


def mean_of_probabilities(answers: Sequence[Tensor]) -> Tensor:
    """log of the mean of the softmaxes, [N, K]; finite where a probability is not representable."""
    logs = torch.stack([F.log_softmax(answer, dim=1) for answer in answers])
    return logs.logsumexp(0) - math.log(len(answers))
