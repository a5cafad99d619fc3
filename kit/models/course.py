"""The students that the courses give, layer by layer and under their own names of tensors."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from kit.models.blocks import following


class CourseNet(nn.Module):
    """The course's own shape and state-dict names: `cnn.*` and `fc.0`."""

    def __init__(self, layers: Sequence[nn.Module], width: int, classes: int):
        super().__init__()
        self.cnn, self.fc = nn.Sequential(*layers), nn.Sequential(nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cnn(x).mean((2, 3)))


def hw13(widths: Sequence[int], classes: int) -> nn.Module:
    """HW13's given student: four unpadded 3×3 convolutions with BN and ReLU, pooled after each but the first."""
    layers: list[nn.Module] = []
    for i, (ins, outs) in enumerate(zip((3, *widths), widths, strict=False)):
        layers += [nn.Conv2d(ins, outs, 3), nn.BatchNorm2d(outs), nn.ReLU(), *([nn.MaxPool2d(2)] if i else [])]
    return CourseNet(layers, widths[-1], classes)


def hw7(widths: Sequence[int], classes: int) -> nn.Module:
    """HW7 2020's given student: a 3×3 block, then depthwise and pointwise ones, the first four pooled."""
    first = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1), nn.BatchNorm2d(widths[0]), nn.ReLU6(), nn.MaxPool2d(2))
    blocks = []
    for i, (ins, outs) in enumerate(itertools.pairwise(widths)):
        pool = [nn.MaxPool2d(2)] if i < 3 else []
        depthwise = following(nn.Conv2d(ins, ins, 3, 1, 1, groups=ins))
        blocks.append(nn.Sequential(depthwise, nn.BatchNorm2d(ins), nn.ReLU6(), nn.Conv2d(ins, outs, 1), *pool))
    return CourseNet([first, *blocks], widths[-1], classes)
