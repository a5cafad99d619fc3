"""What belongs to a channel, and a network without some of them.

torch-pruning's dependency graph says which tensors share their channels, through depthwise convolutions, residual sums,
concatenations and gates. Only its groups are used. Surgery itself is done on the state dict, and the network that goes on is built anew
from its widths, so nothing hangs on a pickle or on a graph.

Some channels stay: those of the classifier, of a frozen stem, of grouped convolutions that are not depthwise, whatever a norm over channels
sees (without one of them the others would answer otherwise), and widths that a network has no say in, as inside a squeeze-excite.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from kit.compress.fold import alike, conv_norm_pairs
from kit.errors import KitError, in_brief
from kit.models.blocks import ChannelGate, Select, has_width
from kit.models.look import watched
from kit.models.students import FrozenStem, build_student, widths_of

SIZED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, Select)
PASSING = {getattr(tp.ops.OPTYPE, kind) for kind in ("ELEMENTWISE", "CONCAT", "SPLIT", "RESHAPE")}  # what hands channels on
EPSILON = 1e-6  # of the largest activation: what rounding may make of a constant


@dataclass(frozen=True, eq=False)  # == would compare tensors
class Place:
    """A layer that holds a group's channels. side: 0 for what it gives, 1 for what it takes. positions, channels: int64 [n], of the
    layer and of the group, in pairs (one channel may have several positions behind a flattening)."""

    module: str
    side: int
    positions: Tensor
    channels: Tensor

    def at(self, channels: Tensor) -> Tensor:
        return self.positions[torch.isin(self.channels, channels)]


@dataclass(frozen=True)
class Group:
    """Channels that can only go together with all their places. name: of the layer that they are first given by."""

    name: str
    count: int
    places: tuple[Place, ...]


Removed = Mapping[str, Tensor]  # channels that go, by their group's name


class SelectDimension(tp.BasePruningFunc):
    """How torch-pruning sees a choice of channels: what goes in and what comes out are separate matters. It only asks for sizes."""

    def prune_out_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError("surgery is done on the state dict")

    def prune_in_channels(self, layer: nn.Module, idxs: list[int]) -> nn.Module:
        raise NotImplementedError("surgery is done on the state dict")

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer.kept

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer.total


class TracedSelect(Select):
    """Gives a tensor of its own even where all channels are kept: the graph is followed by the tensors' gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


def find_groups(student: nn.Module, image_size: int) -> list[Group]:
    """All channels of a network that can be removed, in the order of its layers.

    Raises:
        KitError: there are none.
    """
    model = copy.deepcopy(student).cpu().float().eval().requires_grad_(True)  # the graph is followed by gradients
    for module in model.modules():
        if isinstance(module, Select):
            module.__class__ = TracedSelect
        if isinstance(module, ChannelGate):
            module.__class__ = nn.Identity  # it scales channels one by one and ties none
    names, stay = {module: name for name, module in model.named_modules()}, fixed_modules(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of bare parameters, which stay as they are
            graph = tp.DependencyGraph().build_dependency(
                model, torch.zeros(1, 3, image_size, image_size), customized_pruners={TracedSelect: SelectDimension()}, verbose=False
            )
            found = list(graph.get_all_groups(root_module_types=(nn.Conv2d, TracedSelect)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a stranger's graph fails in any way it likes
        raise KitError(f"This student's channels can't be followed ({in_brief(error)}). Choose another, or do not prune.") from None
    groups = [as_group(group, graph, names) for group in found if not keeps(group, graph, stay)]
    if not groups:
        raise KitError("This student has no channels that could be removed without changing the others. Choose another, or do not prune.")
    return groups


def fixed_modules(model: nn.Module) -> set[nn.Module]:
    """Modules whose outputs keep their channels."""
    stay = {m for m in model.modules() if isinstance(m, nn.Linear)}
    stay |= {child for m in model.modules() if isinstance(m, FrozenStem) for child in m.modules()}
    return stay | {m for m in model.modules() if in_groups(m)}


def in_groups(module: nn.Module) -> bool:
    """Whether it is a convolution in groups that isn't depthwise by its nature; one with a width of its own only happens to be."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and (module.groups != module.in_channels or has_width(module))


def keeps(group: tp.Group, graph: tp.DependencyGraph, stay: set[nn.Module]) -> bool:
    """Whether a group must stay whole: it holds what is no plain channel of a known layer, such as a norm over channels or a bare
    parameter, the stream that selections choose from, or none of the network's widths."""
    for i, (dep, _) in enumerate(group):
        module, gives = dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)
        if dep.target.type in PASSING and None not in group[i].root_idxs:
            continue
        if not isinstance(module, SIZED) or (gives and module in stay) or None in group[i].root_idxs:
            return True
        if not gives and (isinstance(module, Select) or in_groups(module)):
            return True
    return not any(has_width(dep.target.module) and graph.is_out_channel_pruning_fn(dep.handler) for dep, _ in group)


def as_group(group: tp.Group, graph: tp.DependencyGraph, names: dict[nn.Module, str]) -> Group:
    places: dict[tuple[str, int], Place] = {}
    for i, (dep, positions) in enumerate(group):
        module = dep.target.module
        if isinstance(module, SIZED):
            gives = graph.is_out_channel_pruning_fn(dep.handler) or isinstance(module, nn.BatchNorm2d)
            place = Place(names[module], 0 if gives else 1, torch.tensor(positions), torch.tensor(group[i].root_idxs))
            places[place.module, place.side] = place
    return Group(names[group[0].dep.target.module], len(group[0].idxs), tuple(places.values()))


def positions(groups: list[Group], removed: Removed) -> dict[tuple[str, int], Tensor]:
    """{(layer, side): int64 positions that go}."""
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for group in groups:
        for place in group.places if group.name in removed else ():
            gone.setdefault((place.module, place.side), []).append(place.at(removed[group.name]))
    return {key: torch.cat(parts).unique() for key, parts in gone.items()}


def remove(student: nn.Module, name: str, classes: int, groups: list[Group], removed: Removed) -> nn.Module:
    """The same network without these channels, built anew on the CPU, in evaluation mode. Its answers are those of the whole one with the
    channels' outgoing weights at zero; on noise that is looked at, for a network of timm may do with its channels what no graph tells.

    Raises:
        KitError: a network whose forward pass has sizes written into it, or that answers otherwise.
    """
    weights = {key: tensor.detach().cpu() for key, tensor in student.state_dict().items()}
    for (module, side), gone in positions(groups, removed).items():
        for key in [key for key in weights if key.rpartition(".")[0] == module and weights[key].ndim > side]:
            kept = ~torch.isin(torch.arange(weights[key].shape[side]), gone)
            weights[key] = weights[key][kept] if side == 0 else weights[key][:, kept]
    with torch.random.fork_rng(devices=[]):
        rebuilt = build_student(name, widths_after(student, groups, removed), classes)
    try:
        rebuilt.load_state_dict(weights)
        same = alike(silence(student, groups, removed), rebuilt.eval())
    except (RuntimeError, IndexError):
        same = False
    if not same:
        raise KitError(f"{name} mixes its channels in a way that can't be followed, so none can be removed. Choose another student.")
    return rebuilt


def refuse_unprunable(name: str, student: nn.Module, image_size: int) -> None:
    """Surgery tried on a student whose channels differ in weight.

    Raises:
        KitError: it has no channels that could be removed, or can't be rebuilt without some.
    """
    groups = find_groups(student, image_size)
    remove(student, name, student.fc.out_features, groups, {group.name: torch.arange(group.count // 4) for group in groups})


@torch.no_grad()
def silence(student: nn.Module, groups: list[Group], removed: Removed) -> nn.Module:
    """A copy of the whole network in which nothing takes what the removed channels give."""
    student = copy.deepcopy(student).cpu().eval()
    for (name, side), gone in positions(groups, removed).items():
        if side == 1:
            student.get_submodule(name).weight[:, gone] = 0
    return student


def widths_after(student: nn.Module, groups: list[Group], removed: Removed) -> tuple[int, ...]:
    gone = positions(groups, removed)
    names = [name for name, module in student.named_modules() if has_width(module)]
    return tuple(width - len(gone.get((name, 0), ())) for width, name in zip(widths_of(student), names, strict=True))


# ── constants ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def absorb(student: nn.Module, groups: list[Group], removed: Removed, image_size: int) -> nn.Module:
    """A copy whose biases say what the removed channels would still give with their norms' γ at zero: β through whatever follows.

    Where that is exact: every place at which the channel arrives sees one number, whatever the photo and wherever on it, and pads no
    zeros around it (a 1×1 convolution, one without padding, a linear layer after a mean). It is looked for, not derived: two pictures of
    noise go through the silenced network, and a channel that varies, say at the border behind a padded depthwise convolution, is left
    out. The bias is the layer's own or its norm's running mean; a layer with neither is left as it is.
    """
    student = copy.deepcopy(student).cpu().eval()
    silenced, gone = copy.deepcopy(student), positions(groups, removed)
    for (name, _), at in gone.items():
        if isinstance(norm := silenced.get_submodule(name), nn.BatchNorm2d):
            norm.weight[at] = 0
    seen = arriving(silenced, [name for name, side in gone if side == 1], image_size)
    norms = {parent.get_submodule(first): parent.get_submodule(second) for parent, first, second in conv_norm_pairs(student)}
    for (name, side), at in gone.items():
        if side == 1:
            add_constants(student.get_submodule(name), norms.get(student.get_submodule(name)), at, seen[name])
    return student


def arriving(model: nn.Module, layers: list[str], image_size: int) -> dict[str, Tensor]:
    """{layer: its input}, [N, C, H, W] or [N, C], for two pictures of noise."""
    seen: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        seen[name] = given[0]

    with watched({name: model.get_submodule(name) for name in layers}, note):
        model(torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)))
    return seen


def add_constants(layer: nn.Module, norm: nn.BatchNorm2d | None, at: Tensor, seen: Tensor) -> None:
    channels = seen.movedim(1, 0)[at].flatten(1)
    steady = (channels.amax(1) - channels.amin(1)) <= EPSILON * seen.abs().max()
    if isinstance(layer, nn.Conv2d) and any(layer.padding):
        steady &= channels.abs().amax(1) == 0
    share = (layer.weight[:, at].flatten(2).sum(2) if layer.weight.ndim > 2 else layer.weight[:, at]) @ (channels[:, 0] * steady)
    if layer.bias is not None:
        layer.bias += share
    elif norm is not None:
        norm.running_mean -= share
