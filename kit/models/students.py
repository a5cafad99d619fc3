"""The students, by name: a function of widths, so that a pruned one is rebuilt from its widths and never from a pickle.

`widths` are the output channels of the convolutions that have a width of their own, in the order of the forward pass; a depthwise
convolution has the width of its input, and where a block adds to what came before it has that one's. Each is plain enough for torch.fx,
which other programs' tools rely on. Any network of timm's is a student too, by its name, and where it was pruned its widths (library.py).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kit.errors import KitError, nearest
from kit.models.blocks import Bottleneck, Classifier, LargeKernel, Residual, Select, following, has_width, strided_stem, training_only
from kit.models.cifar import CifarResNet, Places, PreCifarResNet, plain_places, pre_places, ties_in, widths_of_places
from kit.models.course import cnn, cnn_deep, cnn_depthwise, hw7, hw13, mobilenet, refuse_uneven
from kit.models.library import FromLibrary, is_library


@dataclass(frozen=True)
class Spec:
    """parameters: of the default widths with 11 classes, held by a test. ties: the places of widths that must move together; a width in
    no tie stays as it is. None: each moves alone. grouped: the name may end in a group count, `bottleneck/4`."""

    build: Callable[..., nn.Module]
    widths: tuple[int, ...]
    parameters: int
    says: str
    ties: tuple[tuple[int, ...], ...] | None = None
    grouped: bool = False


class FrozenStem(nn.Sequential):
    """ResNet-18's 7×7 stem as the teacher has it: never trained, its BN never updated. It counts as parameters all the same."""

    same: tuple[nn.Module, ...] = ()  # the teacher's own stem in half precision, while it looks at the same photos beside this one

    def __init__(self, width: int):
        super().__init__(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.same[0](x) if self.same and torch.is_autocast_enabled(x.device.type) else super().forward(x)

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)

    def copy_from(self, teacher: nn.Module) -> None:
        """Take over conv1 and bn1 of a ResNet."""
        self[0].load_state_dict(teacher.conv1.state_dict())
        self[1].load_state_dict(teacher.bn1.state_dict())

    def is_of(self, teacher: nn.Module) -> bool:
        """Whether it is a teacher's still, to the bit."""
        theirs = nn.ModuleList([teacher.conv1, teacher.bn1]).state_dict() if hasattr(teacher, "bn1") else {}
        ours = nn.ModuleList([self[0], self[1]]).state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name].to(value)) for name, value in ours.items())


def boss(widths: Sequence[int], classes: int) -> nn.Module:
    """Seed 002's boss student: the teacher's stem, then depthwise and pointwise blocks at the teacher's strides."""

    def block(ins: int, outs: int, stride: int) -> nn.Module:
        depthwise = following(nn.Conv2d(ins, ins, 3, stride, 1, groups=ins))
        return nn.Sequential(
            depthwise, nn.BatchNorm2d(ins), nn.LeakyReLU(0.01), nn.Conv2d(ins, outs, 1), nn.BatchNorm2d(outs), nn.LeakyReLU(0.01)
        )

    pairs = itertools.pairwise(widths)
    return Classifier(FrozenStem(widths[0]), [block(a, b, 2 if i else 1) for i, (a, b) in enumerate(pairs)], widths[-1], classes)


def residual(
    widths: Sequence[int],
    classes: int,
    *,
    depths: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int] = (2, 2, 2),
    branched: bool = False,
    gated: bool = False,
) -> nn.Module:
    """Stages of depthwise and pointwise blocks; the first block of a stage strides and widens, the others add to it.

    widths: of the stem and each stage.
    """
    stem, blocks = strided_stem(widths[0], nn.Hardswish()), []
    for stage, (ins, outs) in enumerate(itertools.pairwise(widths)):
        for i in range(depths[stage]):
            stride, kind = 1 if i else strides[stage], {"branched": branched, "gated": gated}
            blocks.append(Residual(outs if i else ins, outs, kernels[stage], stride, follows=i > 0, adds=i > 0, **kind))
    return Classifier(stem, blocks, widths[-1], classes)


def record(widths: Sequence[int], classes: int) -> nn.Module:
    """Ours: a stem that strides at once, then pairs of a strided and a residual block."""
    stem = strided_stem(widths[0], nn.Hardswish())  # first: random weights are drawn in this order
    blocks = [Residual(a, b, 5 if i >= 4 else 3, 1 if i % 2 else 2) for i, (a, b) in enumerate(itertools.pairwise(widths))]
    return Classifier(stem, blocks, widths[-1], classes)


def inverted(widths: Sequence[int], classes: int, *, depths: Sequence[int], kernels: Sequence[int], squeeze: int) -> nn.Module:
    """MobileNetV3's inverted residuals with squeeze-excite, from 1/8 of the photo's side on: before that, wide maps cost too much time.

    widths: of the stem and a depthwise stage; then of each stage its first block's inner and outer width, and the inner one of every
    further block.
    """
    rest = iter(widths)
    stem, ins = strided_stem(widths[0], nn.Hardswish()), widths[1]
    blocks: list[nn.Module] = [Residual(next(rest), next(rest), 3, 2)]
    for depth, kernel in zip(depths, kernels, strict=True):
        for i in range(depth):
            inner, outs = next(rest), ins if i else next(rest)
            blocks.append(Bottleneck(ins, inner, None, outs, kernel, 1 if i else 2, squeeze=squeeze, follows=i > 0))
            ins = outs
    return Classifier(stem, blocks, ins, classes)


def bottleneck(widths: Sequence[int], classes: int, groups: int = 1) -> nn.Module:
    """ResNet's bottlenecks, or ResNeXt's: `bottleneck/4` has four groups in every 3×3.

    widths: of the stem; then of each of four stages both inner widths and the outer one.

    Raises:
        KitError: the groups don't divide an inner width.
    """
    refuse_uneven("bottleneck", [width for i, width in enumerate(widths[1:]) if i % 3 != 2], groups)
    stem, ins, blocks = strided_stem(widths[0], nn.Hardswish()), widths[0], []
    for inner, wide, outs in zip(*[iter(widths[1:])] * 3, strict=True):
        blocks.append(Bottleneck(ins, inner, wide, outs, 3, 2, groups=groups))
        ins = outs
    return Classifier(stem, blocks, ins, classes)


def large(widths: Sequence[int], classes: int, *, depths: Sequence[int], kernels: Sequence[int]) -> nn.Module:
    """ConvNeXt's patch stem and large depthwise kernels, with a strided depthwise block between stages.

    widths: of each stage its own, then the inner one of every block.
    """
    rest = iter(widths)
    blocks: list[nn.Module] = []
    stem, ins = None, 0
    for stage, (depth, kernel) in enumerate(zip(depths, kernels, strict=True)):
        width = next(rest)
        if stage:
            blocks.append(Residual(ins, width, 3, 2))
        else:
            stem = strided_stem(width, nn.Identity(), 4, 4)
        blocks += [LargeKernel(width, next(rest), kernel) for _ in range(depth)]
        ins = width
    return Classifier(stem, blocks, ins, classes)


STUDENTS = {
    "hw13": Spec(hw13, (4, 16, 64, 84), 59_723, "HW13's given student"),
    "boss": Spec(boss, (64, 64, 128, 256, 140), 99_891, "the published boss run's student", ties=((1,), (2,), (3,), (4,))),
    "hw7": Spec(hw7, (16, 32, 64, 128, 256, 256, 256, 256), 256_779, "HW7's given student"),
    "record": Spec(
        record,
        (32, 64, 64, 96, 96, 120, 120),
        59_451,
        "as even, a stem of 32 and a narrower end",
        ties=((0,), (1, 2), (3, 4), (5, 6)),
    ),
    "deep": Spec(
        partial(residual, depths=(1, 4, 4), kernels=(3, 3, 5)),
        (24, 40, 64, 88),
        59_315,
        "as even, narrower and deeper: 1, 4 and 4 blocks",
    ),
    "wide": Spec(
        partial(residual, depths=(1, 2, 2), kernels=(3, 3, 5)), (16, 48, 88, 150), 59_707, "as even, one block less and a wide end"
    ),
    "even": Spec(
        partial(residual, depths=(2, 2, 2), kernels=(3, 3, 5)),
        (16, 48, 88, 143),
        59_674,
        "a thin stem, pairs of depthwise blocks; the recipe record's until 1.8",
    ),
    "gated": Spec(
        partial(residual, depths=(2, 2, 2), kernels=(3, 3, 5), gated=True),
        (16, 48, 88, 143),
        59_686,
        "the recipe record's: as even, channels gated by their own means",
    ),
    "fine": Spec(
        partial(residual, depths=(2, 2, 2), kernels=(3, 5, 5), strides=(1, 2, 2)),
        (16, 48, 88, 138),
        59_795,
        "as even, but its maps twice as high and wide",
    ),
    "fine-gated": Spec(
        partial(residual, depths=(2, 2, 2), kernels=(3, 5, 5), strides=(1, 2, 2), gated=True),
        (16, 48, 88, 138),
        59_807,
        "for photos up to 128 px: as fine, channels gated by their own means",
    ),
    "steep": Spec(
        partial(residual, depths=(1, 2, 3), kernels=(3, 3, 5)), (16, 48, 80, 115), 59_458, "as wide, three narrower blocks at the end"
    ),
    "branched": Spec(
        partial(residual, depths=(1, 2, 2), kernels=(3, 3, 5), branched=True),
        (16, 48, 88, 150),
        59_707,
        "as wide, trained with branches that fuse",
    ),
    "inverted": Spec(
        partial(inverted, depths=(2, 3), kernels=(5, 5), squeeze=8),
        (16, 32, 64, 40, 64, 80, 56, 96, 96),
        59_691,
        "inverted residuals, squeeze-excite, 5×5 kernels",
    ),
    "large": Spec(
        partial(large, depths=(1, 2, 1), kernels=(7, 7, 5)),
        (32, 64, 56, 80, 80, 76, 116),
        59_891,
        "4×4 patches and 7×7 kernels, as ConvNeXt",
    ),
    "bottleneck": Spec(
        bottleneck,
        (32, 16, 16, 56, 24, 24, 104, 40, 32, 168, 32, 32, 208),
        59_771,
        "bottlenecks; bottleneck/4 has four groups in each 3×3",
        grouped=True,
    ),
}


def of_cifar(build: Callable[..., nn.Module], places: Places, blocks: int, parameters: int, says: str) -> Spec:
    return Spec(partial(build, blocks), widths_of_places(places(blocks)), parameters, says, ties_in(places(blocks)))


# Made for 32 px and 100 classes; too large for the limits of the competitions unless narrowed or pruned.
CIFAR = {
    "resnet8x4": of_cifar(CifarResNet, plain_places, 1, 1_210_667, "CIFAR's ResNet-8, four times as wide"),
    "resnet32x4": of_cifar(CifarResNet, plain_places, 5, 7_410_987, "CIFAR's ResNet-32, four times as wide"),
    "preresnet8x4": of_cifar(PreCifarResNet, pre_places, 1, 1_209_771, "the same with pre-activation and channel selection"),
    "preresnet32x4": of_cifar(PreCifarResNet, pre_places, 5, 7_410_091, "the same with pre-activation and channel selection"),
}
# Of the courses' solutions, for the studies that run them again; too large for the limits as well.
PRINTED = {
    "cnn": Spec(cnn, (64, 128, 256, 512, 512), 3_919_371, "plain 3×3 convolutions; cnn/2 has two groups in each", grouped=True),
    "cnn-depthwise": Spec(cnn_depthwise, (64, 128, 256, 512, 512), 454_667, "the same, depthwise and pointwise"),
    "cnn-deep": Spec(cnn_deep, (64, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512), 1_083_595, "the same with ten blocks for four"),
    "mobilenet": Spec(
        partial(mobilenet, strides=(2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)),
        (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512),
        1_618_763,
        "MobileNet v1's blocks",
    ),
}
TABLE = STUDENTS | CIFAR | PRINTED


def find(name: str) -> tuple[Spec, tuple[int, ...]]:
    """A student's entry and what its builder takes besides: the group count in its name.

    Raises:
        KitError: there is none of this name, with the nearest.
    """
    base, _, count = name.partition("/")
    if name in TABLE:
        return TABLE[name], ()
    if base in TABLE and TABLE[base].grouped and count.isdecimal() and int(count):
        return TABLE[base], (int(count),)
    raise KitError(f"There is no student {name!r}. Nearest: {nearest(name, TABLE)}; or timm/NAME for one of timm's.")


def build_student(name: str, widths: Sequence[int], classes: int) -> nn.Module:
    """A new student in channels-last memory; `widths` empty means the table's, or timm's."""
    if is_library(name):
        return FromLibrary(name, classes, widths).to(memory_format=torch.channels_last)
    spec, more = find(name)
    if widths and len(widths) != len(spec.widths):
        raise KitError(f"Student {name!r} has {len(spec.widths)} widths, {len(widths)} are given: {list(widths)}.")
    return spec.build(tuple(widths) or spec.widths, classes, *more).to(memory_format=torch.channels_last)


def widths_of(student: nn.Module) -> tuple[int, ...]:
    """The widths that rebuild a student, also after surgery: its convolutions' output channels, and how many a selection keeps."""
    return tuple(m.kept if isinstance(m, Select) else m.out_channels for m in student.modules() if has_width(m))


def count_parameters(model: nn.Module) -> int:
    """`numel` of every parameter that is deployed, frozen ones included, each once; buffers are not parameters.

    Branches that fuse away are counted as the one convolution and norm that they become, which is what a plain network of the same
    shape would count.
    """
    beside = {id(p) for part in training_only(model) for p in part.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in beside)
