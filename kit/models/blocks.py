"""The parts that students are made of, plain enough for torch.fx and torch-pruning.

A convolution whose width is another's (depthwise, the end of a residual branch, a gate) is marked with `follows`, so that a student's
widths name each free number once. A norm is the child after its convolution, as folding (compress/fold.py) wants it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """stem → blocks → mean over space → linear. The mean is written out: adaptive pooling's backward is nondeterministic on CUDA."""

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], width: int, classes: int):
        super().__init__()
        self.stem, self.blocks, self.fc = stem, nn.Sequential(*blocks), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def following(conv: nn.Conv2d, follows: bool = True) -> nn.Conv2d:
    """A convolution whose output width is not one of the student's own."""
    conv.follows = follows
    return conv


class Select(nn.Module):
    """`kept` of `total` channels. The indices are on the device, and whether all are kept is known to Python: nothing is waited for."""

    def __init__(self, total: int, kept: int):
        super().__init__()
        self.total, self.kept = total, kept
        self.register_buffer("index", torch.arange(kept))

    def forward(self, x: Tensor) -> Tensor:
        return x if self.kept == self.total else x.index_select(1, self.index)


def has_width(module: nn.Module) -> bool:
    """Whether a module's output channels are one of the student's widths: a convolution's own, or how many a selection keeps."""
    if not isinstance(module, nn.Conv2d):
        return isinstance(module, Select)
    return not getattr(module, "follows", False)


def depthwise(width: int, kernel: int, stride: int) -> nn.Conv2d:
    return following(nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False))


def strided_stem(width: int, act: nn.Module, kernel: int = 3, stride: int = 2) -> nn.Sequential:
    """kernel = stride: patches that do not overlap (ConvNeXt). Full resolution is where the time would go."""
    return nn.Sequential(nn.Conv2d(3, width, kernel, stride, (kernel - stride + 1) // 2, bias=False), nn.BatchNorm2d(width), act)


class SqueezeExcite(nn.Module):
    """Each channel scaled by what all of them say in the mean over space (Hu et al. 2018). The gate is a hard sigmoid (MobileNetV3),
    and `hidden` a small constant: a share of the width would cost a fifth of a student's parameters."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.squeeze, self.excite = following(nn.Conv2d(width, hidden, 1)), following(nn.Conv2d(hidden, width, 1))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.excite(self.act(self.squeeze(x.mean((2, 3), keepdim=True)))))


class ChannelGate(nn.Module):
    """Each channel scaled by a line of its own mean over space, one line for all channels: two parameters. Efficient channel attention
    (Wang et al. 2020) that looks at no neighbours, for channels have no order and pruning moves them. Most lines come to fall: a channel
    that is high all over a photo says little of it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.line(x.mean((2, 3))[..., None]))[..., None]


class Residual(nn.Module):
    """Depthwise k×k, pointwise, both with BN; the input is added where the shape allows. One activation in between: a second one
    after the sum cost accuracy in small networks (MobileNetV2's linear bottleneck).

    branched: both convolutions are trained with branches beside them. gated: its output passes a ChannelGate before the input is added.
    follows: the width is that of the block before. adds: whether the input is added at all; a block that widens must not begin to when
    pruning leaves it as wide as what it is given.
    """

    def __init__(
        self, ins: int, outs: int, kernel: int, stride: int,
        *, branched: bool = False, gated: bool = False, follows: bool = False, adds: bool = True,
    ):  # fmt: skip
        super().__init__()
        if branched:
            self.depthwise, self.bn1 = Branches(depthwise(ins, kernel, stride)), nn.Identity()
            pointwise = following(nn.Conv2d(ins, outs, 1, bias=False), follows)
            self.pointwise, self.bn2 = Branches(pointwise, same=follows), nn.Identity()
        else:
            self.depthwise, self.bn1 = depthwise(ins, kernel, stride), nn.BatchNorm2d(ins)
            self.pointwise, self.bn2 = following(nn.Conv2d(ins, outs, 1, bias=False), follows), nn.BatchNorm2d(outs)
        self.act = nn.Hardswish()
        self.gate = ChannelGate() if gated else nn.Identity()
        self.adds = adds and ins == outs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.act(self.bn2(self.pointwise(self.act(self.bn1(self.depthwise(x)))))))
        return x + y if self.adds else y


class Bottleneck(nn.Module):
    """1×1 to `inner` channels, k×k, 1×1 to `outs`, each with BN; the last is linear, and the input is added where the shape allows.

    inner > ins and a depthwise k×k: MobileNetV2's inverted residual, V3's with `squeeze`. inner < ins: ResNet's bottleneck, and with
    groups ResNeXt's.

    Args:
        wide: channels after the k×k, a width of its own; None for a depthwise one.
        groups: of the k×k where it is not depthwise.
        squeeze: hidden channels of squeeze-excite after it, 0 for none.
        follows: the width is that of the block before.
    """

    def __init__(
        self, ins: int, inner: int, wide: int | None, outs: int, kernel: int, stride: int,
        *, groups: int = 1, squeeze: int = 0, follows: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, inner, 1, bias=False), nn.BatchNorm2d(inner)
        if wide is None:
            wide, self.conv2 = inner, depthwise(inner, kernel, stride)
        else:
            self.conv2 = nn.Conv2d(inner, wide, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.gate = SqueezeExcite(wide, squeeze) if squeeze else nn.Identity()
        self.conv3, self.bn3 = following(nn.Conv2d(wide, outs, 1, bias=False), follows), nn.BatchNorm2d(outs)
        self.act = nn.Hardswish()
        self.adds = ins == outs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.gate(self.act(self.bn2(self.conv2(y))))))
        return x + y if self.adds else y


class LargeKernel(nn.Module):
    """ConvNeXt's block (Liu et al. 2022) with BN, which folds away, for its LayerNorm: depthwise k×k, 1×1 wider, activation, 1×1 back."""

    def __init__(self, width: int, inner: int, kernel: int):
        super().__init__()
        self.depthwise, self.bn1 = depthwise(width, kernel, 1), nn.BatchNorm2d(width)
        self.conv1, self.bn2 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.act = nn.Hardswish()
        self.conv2, self.bn3 = following(nn.Conv2d(inner, width, 1, bias=False)), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn3(self.conv2(self.act(self.bn2(self.conv1(self.bn1(self.depthwise(x)))))))


class Branches(nn.Module):
    """A convolution with BN that is trained with a 1×1 one and an identity beside it, each with a BN of its own, and deployed without:
    all are linear, so their kernels add up to one (RepVGG, Ding et al. 2021, section 3.3; MobileOne, Vasu et al. 2023, for depthwise).
    """

    def __init__(self, conv: nn.Conv2d, same: bool = True):
        """same: whether it may have an identity. Not where widths are equal by chance: pruning may make or end that."""
        super().__init__()
        ins, outs = conv.in_channels, conv.out_channels
        self.conv, self.bn = conv, nn.BatchNorm2d(outs)
        self.point: nn.Conv2d | None = None
        self.point_bn: nn.BatchNorm2d | None = None
        self.same_bn: nn.BatchNorm2d | None = None
        if conv.kernel_size != (1, 1):
            self.point = following(nn.Conv2d(ins, outs, 1, conv.stride, groups=conv.groups, bias=False))
            self.point_bn = nn.BatchNorm2d(outs)
        if same and ins == outs and conv.stride == (1, 1):
            self.same_bn = nn.BatchNorm2d(outs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        if self.point is not None and self.point_bn is not None:
            y = y + self.point_bn(self.point(x))
        return y if self.same_bn is None else y + self.same_bn(x)

    def beside(self) -> list[nn.Module]:
        """What is there in training only."""
        return [m for m in (self.point, self.point_bn, self.same_bn) if m is not None]

    @torch.no_grad()
    def merge(self) -> None:
        """Add the branches to the convolution, which has taken up its own BN and has a bias; so has `point`. Evaluation mode's outputs
        stay equal to rounding."""
        weight, bias, centre = self.conv.weight, self.conv.bias, self.conv.kernel_size[0] // 2
        if self.point is not None:
            weight[:, :, centre, centre] += self.point.weight[:, :, 0, 0]
            bias += self.point.bias
        if (bn := self.same_bn) is not None:
            scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
            rows, each = torch.arange(len(weight)), self.conv.out_channels // self.conv.groups
            weight[rows, rows % each, centre, centre] += scale
            bias += bn.bias - bn.running_mean * scale
        self.drop()

    def drop(self) -> None:
        """Leave the convolution and its BN: the plain network of the same shape."""
        self.point = self.point_bn = self.same_bn = None


def training_only(model: nn.Module) -> set[nn.Module]:
    """The modules of all branches that fuse away."""
    return {part for m in model.modules() if isinstance(m, Branches) for part in m.beside()}


def plain(model: nn.Module) -> nn.Module:
    """The network without its branches, in place: the shape that it is deployed in, not its weights."""
    for branches in [m for m in model.modules() if isinstance(m, Branches)]:
        branches.drop()
    return model
