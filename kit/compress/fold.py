"""Batch norm folded into the convolution before it: fewer vectors to store, fewer passes to run, equal outputs in evaluation mode.

A norm follows its convolution directly, as the child after it in the same parent; every student is written so, and the tests compare
outputs for each. torch.fx was left out: it would find the same pairs through a traced graph and give back a GraphModule, whose modules
can no longer be walked by the names that a state dict has. A network of timm may list its layers in another order than it runs them; there
a look at a blank photo tells which norms follow, the others stay, and the answers are compared.
"""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kit.errors import KitError
from kit.models.blocks import Branches, plain, training_only
from kit.models.library import SIDE, FromLibrary
from kit.models.look import blank, evaluated, hooked

TOLERANCE = 1e-2  # of the largest answer; rounding gives 1e-5, a norm in the wrong place changes all


def fold(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, whose convolutions have a bias and whose norms have become Identity. The given one is left
    as it is.

    Raises:
        KitError: a norm has another number of channels than the convolution that it follows, or a network of timm answers otherwise.
    """
    whole = copy.deepcopy(model).cpu().eval()
    if not isinstance(model, FromLibrary):
        return fold_in_place(whole)
    folded = fold_in_place(copy.deepcopy(whole))
    if not alike(whole, folded):
        raise KitError("This network of timm would answer otherwise with its batch norms folded. Choose another student.")
    return folded


@torch.no_grad()
def alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks on the CPU, in evaluation mode, answer alike to noise."""
    side = one.side if isinstance(one, FromLibrary) else SIDE
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    before, after = one(noise), other(noise)
    return bool((before - after).abs().max() <= TOLERANCE * before.abs().max() + TOLERANCE)


def fold_in_place(model: nn.Module) -> nn.Module:
    """`model` must be in evaluation mode. A norm that follows no convolution (a pre-activation network's) stays."""
    for parent, first, second in list(conv_norm_pairs(model)):
        fused = fuse_conv_bn_eval(getattr(parent, first), getattr(parent, second))
        fused.bias.requires_grad_(fused.weight.requires_grad)  # torch's doesn't where the convolution had none
        setattr(parent, first, fused)
        setattr(parent, second, left_of(getattr(parent, second)))
    for branches in [m for m in model.modules() if isinstance(m, Branches) and m.beside()]:  # not one that was merged before
        branches.merge()
    return model


def fold_shape(model: nn.Module) -> nn.Module:
    """The modules that folding would leave, in place and with no weights computed: something to load folded weights into."""
    for parent, first, second in list(conv_norm_pairs(plain(model))):
        conv = getattr(parent, first)
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels))
        setattr(parent, second, left_of(getattr(parent, second)))
    return model


def left_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What stays of a norm that was folded: timm's have the activation inside."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def conv_norm_pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, convolution's name, norm's name) for every convolution that is followed by its batch norm."""
    ran = norms_after(model) if isinstance(model, FromLibrary) else None
    for path, parent in list(model.named_modules()):
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if ran is not None and ran.get(norm) is not conv:
                continue
            if conv.out_channels != norm.num_features:
                raise KitError(
                    f"The batch norm {path}.{second} has {norm.num_features} channels, the convolution before it {conv.out_channels}: "
                    "it can't be folded. Write the norm of a convolution as the child after it."
                )
            yield parent, first, second


@torch.no_grad()
def norms_after(model: FromLibrary) -> dict[nn.Module, nn.Module]:
    """{norm: the convolution whose output it is given}, by a look at a blank photo."""
    gave: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensors too: an address that is freed may be given to the next map
    found = {}

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        gave[id(output)] = module, output

    def ask(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        if id(given[0]) in gave:
            found[norm] = gave[id(given[0])][0]

    hooks = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(ask) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with hooked(hooks), evaluated(model):
        model(blank(model, model.side))
    return found


@torch.no_grad()
def unfold(folded: nn.Module, student: nn.Module) -> nn.Module:
    """A folded network's weights in the shape that is trained, for programs that know only that: a norm that changes nothing but adds the
    bias. In place of `student`'s own weights; outputs agree to rounding. Branches that were fused are there again and say nothing.

    Args:
        student: unfolded, of the same name and widths.
    """
    beside = training_only(student)
    pairs = [(getattr(parent, first), getattr(parent, second)) for parent, first, second in conv_norm_pairs(student)]
    pairs = [(conv, norm) for conv, norm in pairs if conv not in beside]
    names = {module: name for name, module in student.named_modules()}
    weights, biases = student.state_dict() | folded.state_dict(), {}
    for conv, norm in pairs:
        biases[norm] = weights.pop(f"{names[conv]}.bias")
        if conv.bias is not None:
            weights[f"{names[conv]}.bias"] = torch.zeros_like(biases[norm])
    student.load_state_dict(weights)
    for norm, bias in biases.items():
        norm.reset_running_stats()
        norm.weight.fill_((1 + norm.eps) ** 0.5)
        norm.bias.copy_(bias)
    for norm in (module for module in beside if isinstance(module, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return student.eval()
