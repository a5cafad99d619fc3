"""The students, by name: a function of widths, so that a pruned one is rebuilt from its widths and never from a pickle.

`widths` are the output channels of the dense convolutions (stem and pointwise) in the order of the forward pass; a depthwise
convolution has the width of its input. Each is plain enough for torch.fx, which the taps and the pruning graph rely on.

`timm/NAME` is any network of timm, whose own convolutions' widths may be smaller than timm's (resize.py).
"""

import difflib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kit.errors import KitError
from kit.models.cifar import CifarResNet, PreCifarResNet, Select, plain_widths, pre_widths
from kit.models.resize import build_timm


@dataclass(frozen=True)
class Spec:
    """parameters: of the default widths with 11 classes, held by a test."""

    build: Callable[[Sequence[int], int], nn.Module]
    widths: tuple[int, ...]
    parameters: int
    says: str


class Classifier(nn.Module):
    """stem → blocks → mean over space → linear. The mean is written out: adaptive pooling's backward is nondeterministic on CUDA."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], width: int, classes: int):
        super().__init__()
        self.stem, self.blocks, self.fc = stem, nn.Sequential(*blocks), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


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
        depthwise = nn.Conv2d(ins, ins, 3, 1, 1, groups=ins)
        blocks.append(nn.Sequential(depthwise, nn.BatchNorm2d(ins), nn.ReLU6(), nn.Conv2d(ins, outs, 1), *pool))
    return CourseNet([first, *blocks], widths[-1], classes)


class FrozenStem(nn.Sequential):
    """ResNet-18's 7×7 stem as the teacher has it: never trained, its BN never updated. It counts as parameters all the same."""

    def __init__(self, width: int):
        super().__init__(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)

    def copy_from(self, teacher: nn.Module) -> None:
        """Take over conv1 and bn1 of a ResNet."""
        self[0].load_state_dict(teacher.conv1.state_dict())
        self[1].load_state_dict(teacher.bn1.state_dict())


def boss(widths: Sequence[int], classes: int) -> nn.Module:
    """Seed 002's boss student: the teacher's stem, then depthwise and pointwise blocks at the teacher's strides."""

    def block(ins: int, outs: int, stride: int) -> nn.Module:
        depthwise = nn.Conv2d(ins, ins, 3, stride, 1, groups=ins)
        return nn.Sequential(
            depthwise, nn.BatchNorm2d(ins), nn.LeakyReLU(0.01), nn.Conv2d(ins, outs, 1), nn.BatchNorm2d(outs), nn.LeakyReLU(0.01)
        )

    pairs = itertools.pairwise(widths)
    return Classifier(FrozenStem(widths[0]), [block(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairs)], widths[-1], classes)


class Residual(nn.Module):
    """Depthwise k×k, pointwise, both with BN; the input is added where the shape allows. One activation in between: a second one
    after the sum cost accuracy in small networks (MobileNetV2's linear bottleneck)."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(ins, ins, kernel, stride, kernel // 2, groups=ins, bias=False)
        self.bn1 = nn.BatchNorm2d(ins)
        self.pointwise = nn.Conv2d(ins, outs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.act = nn.Hardswish()
        self.adds = ins == outs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn2(self.pointwise(self.act(self.bn1(self.depthwise(x))))))
        return x + y if self.adds else y


def record(widths: Sequence[int], classes: int) -> nn.Module:
    """Ours: a stem that strides at once (full resolution is where the time goes), then pairs of a strided and a residual block."""
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.Hardswish())
    pairs = itertools.pairwise(widths)
    blocks = [Residual(a, b, 5 if i >= 4 else 3, 1 if i % 2 else 2) for i, (a, b) in enumerate(pairs)]
    return Classifier(stem, blocks, widths[-1], classes)


STUDENTS = {
    "hw13": Spec(hw13, (4, 16, 64, 84), 59_723, "HW13's given student"),
    "boss": Spec(boss, (64, 64, 128, 256, 140), 99_891, "the published boss run's student"),
    "hw7": Spec(hw7, (16, 32, 64, 128, 256, 256, 256, 256), 256_779, "HW7's given student"),
    "record": Spec(record, (32, 64, 64, 96, 96, 120, 120), 59_451, "ours, a strided stem and residual depthwise blocks"),
}


# Made for 32 px and 100 classes; too large for the limits of the competitions unless pruned.
CIFAR = {
    "resnet8x4": Spec(partial(CifarResNet, 1), plain_widths(1), 1_210_667, "CIFAR's ResNet-8, four times as wide"),
    "resnet32x4": Spec(partial(CifarResNet, 5), plain_widths(5), 7_410_987, "CIFAR's ResNet-32, four times as wide"),
    "preresnet8x4": Spec(partial(PreCifarResNet, 1), pre_widths(1), 1_209_771, "the same with pre-activation and channel selection"),
    "preresnet32x4": Spec(partial(PreCifarResNet, 5), pre_widths(5), 7_410_091, "the same with pre-activation and channel selection"),
}
TABLE = STUDENTS | CIFAR


def build_student(name: str, widths: Sequence[int], classes: int) -> nn.Module:
    """A new student in channels-last memory; `widths` empty means the table's, or timm's."""
    if name.startswith("timm/"):
        return build_timm(name, widths, classes).to(memory_format=torch.channels_last)
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=3) or TABLE
        raise KitError(f"There is no student {name!r}. Nearest: {', '.join(near)}. timm's networks are named timm/….")
    spec = TABLE[name]
    if widths and len(widths) != len(spec.widths):
        raise KitError(f"Student {name!r} has {len(spec.widths)} widths, {len(widths)} are given: {list(widths)}.")
    return spec.build(tuple(widths) or spec.widths, classes).to(memory_format=torch.channels_last)


def widths_of(student: nn.Module) -> tuple[int, ...]:
    """The widths that rebuild a student after surgery: its dense convolutions' output channels, and how many a selection keeps."""
    return tuple(m.kept if isinstance(m, Select) else m.out_channels for m in student.modules() if has_width(m))


def has_width(module: nn.Module) -> bool:
    return isinstance(module, Select) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def count_parameters(model: nn.Module) -> int:
    """`numel` of every parameter, frozen ones included, each once; buffers are not parameters."""
    return sum(p.numel() for p in model.parameters())
