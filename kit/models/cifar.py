"""CIFAR's ResNets of basic blocks, 32-64-128-256 wide ("x4"), with the tensor names that CRD, DIST and their successors save.

The pre-activation variants choose the channels of the residual stream that a block looks at (Liu et al. 2017, section 4.3), so that
slimming may narrow every block and leave the stream alone. Network slimming's own code finds the chosen channels anew in every forward
pass, on the host, for which the GPU is waited for; here they are a buffer of indices, and the choice comes before the norm, whose other
channels then cost nothing: in evaluation mode the two orders answer alike.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor, nn

from kit.models.blocks import Select

STAGES = (64, 128, 256)
STEM = 32


class Block(nn.Module):
    """Two 3×3 convolutions with BN and a shortcut, projected where `shortcut` is a width (He et al. 2016a)."""

    def __init__(self, ins: int, inner: int, outs: int, stride: int, shortcut: int | None):
        super().__init__()
        self.conv1 = nn.Conv2d(ins, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        projection = (nn.Conv2d(ins, shortcut, 1, stride, bias=False), nn.BatchNorm2d(shortcut)) if shortcut else ()
        self.downsample = nn.Sequential(*projection)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))) + self.downsample(x))


class PreBlock(nn.Module):
    """The same with norm and activation before each convolution (He et al. 2016b), behind a choice of channels."""

    def __init__(self, ins: int, chosen: int, inner: int, outs: int, stride: int, shortcut: int | None):
        super().__init__()
        self.select = Select(ins, chosen)
        self.bn1 = nn.BatchNorm2d(chosen)
        self.conv1 = nn.Conv2d(chosen, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outs, 3, 1, 1, bias=False)
        self.downsample = nn.Sequential(*([nn.Conv2d(ins, shortcut, 1, stride, bias=False)] if shortcut else []))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.act(self.bn1(self.select(x))))
        return self.conv2(self.act(self.bn2(y))) + self.downsample(x)


class CifarResNet(nn.Module):
    def __init__(self, blocks: int, widths: Sequence[int], classes: int):
        super().__init__()
        left = iter(widths)
        stream = next(left)
        self.conv1, self.bn1, self.act = nn.Conv2d(3, stream, 3, 1, 1, bias=False), nn.BatchNorm2d(stream), nn.ReLU()
        for stage in range(len(STAGES)):
            layer = []
            for i in range(blocks):
                inner, outs, shortcut = next(left), next(left), next(left) if i == 0 else None
                layer.append(Block(stream, inner, outs, 2 if stage and i == 0 else 1, shortcut))
                stream = outs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(stream, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class PreCifarResNet(nn.Module):
    def __init__(self, blocks: int, widths: Sequence[int], classes: int):
        super().__init__()
        left = iter(widths)
        stream = next(left)
        self.conv1 = nn.Conv2d(3, stream, 3, 1, 1, bias=False)
        for stage in range(len(STAGES)):
            layer = []
            for i in range(blocks):
                chosen, inner, outs, shortcut = next(left), next(left), next(left), next(left) if i == 0 else None
                layer.append(PreBlock(stream, chosen, inner, outs, 2 if stage and i == 0 else 1, shortcut))
                stream = outs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        chosen = next(left)
        self.select, self.bn, self.act, self.fc = Select(stream, chosen), nn.BatchNorm2d(chosen), nn.ReLU(), nn.Linear(chosen, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.act(self.bn(self.select(x))).mean((2, 3)))


Mark = tuple[int, ...]
Places = Callable[[int], Iterable[tuple[int, Mark]]]


def plain_places(blocks: int) -> Iterator[tuple[int, Mark]]:
    """(width, mark) of the convolutions as they come. Those of a mark must move together: all that adds to a stage's stream."""
    yield STEM, (0,)
    for stage, width in enumerate(STAGES, 1):
        for i in range(blocks):
            yield width, (stage, 0, i)
            yield from [(width, (stage, 1))] * (1 if i else 2)  # the first block's shortcut too


def pre_places(blocks: int) -> Iterator[tuple[int, Mark]]:
    """The same of choices and convolutions: each block first says how many channels of the stream it looks at, which moves with it."""
    before, stream = STEM, (0, 0)
    yield before, stream
    for stage, width in enumerate(STAGES, 1):
        for i in range(blocks):
            yield before, stream
            yield width, (1, stage, i)
            before, stream = width, (0, stage)
            yield from [(width, stream)] * (1 if i else 2)
    yield before, stream


def widths_of_places(places: Iterable[tuple[int, Mark]]) -> tuple[int, ...]:
    return tuple(width for width, _ in places)


def ties_in(places: Iterable[tuple[int, Mark]]) -> tuple[tuple[int, ...], ...]:
    """The places of each mark, in the order of the marks."""
    ties: dict[Mark, list[int]] = {}
    for place, (_, mark) in enumerate(places):
        ties.setdefault(mark, []).append(place)
    return tuple(tuple(ties[mark]) for mark in sorted(ties))
