"""Batch norm folded into the convolution before it: fewer vectors to store, fewer passes to run, equal outputs in evaluation mode.

A norm follows its convolution directly, as the child after it in the same parent; every student is written so, and the tests compare
outputs for each. torch.fx was left out: it would find the same pairs through a traced graph and give back a GraphModule, whose modules
can no longer be walked by the names that a state dict has.
"""

import copy
import itertools
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kit.errors import KitError
from kit.models.blocks import Branches, plain
from kit.models.library import FromLibrary


def fold(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode, whose convolutions have a bias and whose norms have become Identity. The given one is left
    as it is.

    Raises:
        KitError: a norm has another number of channels than the convolution that it follows.
    """
    return fold_in_place(copy.deepcopy(model).cpu().eval())


def fold_in_place(model: nn.Module) -> nn.Module:
    """`model` must be in evaluation mode. A norm that follows no convolution (a pre-activation network's) stays."""
    for parent, first, second in conv_norm_pairs(model):
        setattr(parent, first, fuse_conv_bn_eval(getattr(parent, first), getattr(parent, second)))
        setattr(parent, second, nn.Identity())
    for branches in [m for m in model.modules() if isinstance(m, Branches)]:
        branches.merge()
    return model


def fold_shape(model: nn.Module) -> nn.Module:
    """The modules that folding would leave, in place and with no weights computed: something to load folded weights into."""
    for parent, first, second in conv_norm_pairs(plain(model)):
        conv = getattr(parent, first)
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_empty(conv.out_channels))
        setattr(parent, second, nn.Identity())
    return model


def conv_norm_pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, convolution's name, norm's name) for every convolution that is followed by its batch norm; none in a library's network,
    whose norms may hold activations."""
    if isinstance(model, FromLibrary):
        return
    for path, parent in list(model.named_modules()):
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if conv.out_channels != norm.num_features:
                raise KitError(
                    f"The batch norm {path}.{second} has {norm.num_features} channels, the convolution before it {conv.out_channels}: "
                    "it can't be folded. Write the norm of a convolution as the child after it."
                )
            yield parent, first, second


@torch.no_grad()
def unfold(folded: nn.Module, student: nn.Module) -> nn.Module:
    """A folded network's weights in the shape that is trained, for programs that know only that: a norm that changes nothing but adds the
    bias. In place of `student`'s own weights; outputs agree to rounding.

    Args:
        student: unfolded, of the same name and widths.
    """
    norms = {id(getattr(parent, second)): getattr(parent, second) for parent, _, second in conv_norm_pairs(plain(student))}
    weights = folded.state_dict()
    fresh = {name: tensor for name, tensor in student.state_dict().items() if name not in weights}
    biases = {}
    for parent, first, second in conv_norm_pairs(student):
        path = next(name for name, module in student.named_modules() if module is getattr(parent, first))
        biases[id(getattr(parent, second))] = weights.pop(f"{path}.bias")
        if getattr(parent, first).bias is not None:
            weights[f"{path}.bias"] = torch.zeros_like(biases[id(getattr(parent, second))])
    student.load_state_dict(weights | {name: tensor for name, tensor in fresh.items() if name not in weights})
    for key, norm in norms.items():
        norm.reset_running_stats()
        norm.weight.fill_((1 + norm.eps) ** 0.5)
        norm.bias.copy_(biases[key])
    return student.eval()
