"""The students that the courses give, layer by layer and under their own names of tensors, and the ones that their solutions printed."""

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from kit.errors import KitError
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
        layers += block(nn.Conv2d(ins, outs, 3), pooled=i > 0)
    return CourseNet(layers, widths[-1], classes)


def hw7(widths: Sequence[int], classes: int) -> nn.Module:
    """HW7 2020's given student: a 3×3 block, then depthwise and pointwise ones, the first four pooled."""
    first = block(nn.Conv2d(3, widths[0], 3, 1, 1), nn.ReLU6)
    blocks = [separable(ins, outs, i < 3, nn.ReLU6) for i, (ins, outs) in enumerate(itertools.pairwise(widths))]
    return CourseNet([first, *blocks], widths[-1], classes)


def cnn(widths: Sequence[int], classes: int, groups: int = 1) -> nn.Module:
    """HW3's given network up to its last map: 3×3 convolutions with BN and ReLU, pooled after each. `cnn/2` has two groups in every
    convolution but the first.

    Raises:
        KitError: the groups don't divide a width.
    """
    refuse_uneven("cnn", widths, groups)
    blocks = []
    for i, (ins, outs) in enumerate(zip((3, *widths), widths, strict=False)):
        blocks.append(block(nn.Conv2d(ins, outs, 3, 1, 1, groups=groups if i else 1)))
    return CourseNet(blocks, widths[-1], classes)


def cnn_depthwise(widths: Sequence[int], classes: int) -> nn.Module:
    """The same with depthwise and pointwise convolutions after the first (seed 000): 454,667 parameters, and the 185.00 MB of maps that
    were printed with it at 256 px if nothing is pooled after the last."""
    first = block(nn.Conv2d(3, widths[0], 3, 1, 1))
    blocks = [separable(ins, outs, i < len(widths) - 2) for i, (ins, outs) in enumerate(itertools.pairwise(widths))]
    return CourseNet([first, *blocks], widths[-1], classes)


def cnn_deep(widths: Sequence[int], classes: int) -> nn.Module:
    """Two blocks for each of those (seed 000), 1,083,595 parameters. Only the total was printed: this is one reconstruction of several,
    with no bias after the first convolution, pooled where it widens."""
    first = block(nn.Conv2d(3, widths[0], 3, 1, 1))
    blocks = [separable(ins, outs, outs > ins, bias=False) for ins, outs in itertools.pairwise(widths)]
    return CourseNet([first, *blocks], widths[-1], classes)


def mobilenet(widths: Sequence[int], classes: int, strides: Sequence[int]) -> nn.Module:
    """MobileNet v1's blocks as seed 004 prints them: 1,618,763 parameters by that code, whatever its text says."""
    first = block(nn.Conv2d(3, widths[0], 3, strides[0], 1, bias=False), pooled=False)
    blocks = []
    for (ins, outs), stride in zip(itertools.pairwise(widths), strides[1:], strict=True):
        depthwise = block(following(nn.Conv2d(ins, ins, 3, stride, 1, groups=ins, bias=False)), pooled=False)
        blocks.append(nn.Sequential(*depthwise, *block(nn.Conv2d(ins, outs, 1, bias=False), pooled=False)))
    return CourseNet([first, *blocks], widths[-1], classes)


def block(conv: nn.Conv2d, activation: Callable[[], nn.Module] = nn.ReLU, pooled: bool = True) -> nn.Sequential:
    """A convolution with BN and activation."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), activation(), *([nn.MaxPool2d(2)] if pooled else []))


def separable(ins: int, outs: int, pooled: bool, activation: Callable[[], nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """A depthwise convolution with BN and activation, and a pointwise one without."""
    depthwise = block(following(nn.Conv2d(ins, ins, 3, 1, 1, groups=ins, bias=bias)), activation, pooled=False)
    return nn.Sequential(*depthwise, nn.Conv2d(ins, outs, 1, bias=bias), *([nn.MaxPool2d(2)] if pooled else []))


def refuse_uneven(name: str, widths: Sequence[int], groups: int) -> None:
    """
    Raises:
        KitError: the groups of the student `name`/`groups` don't divide one of these widths.
    """
    if uneven := [width for width in widths if width % groups]:
        raise KitError(f"{groups} groups don't divide the widths {uneven} of {name}/{groups}. Give multiples, or set student.parameters.")
