"""Any network of timm with fewer channels: built by its name, then each layer cut to the width that it is to have.

Only the widths of the dense convolutions are told. What goes into a layer is seen: a blank picture is passed through, and each layer,
before it answers, takes the size of what comes to it. A network whose forward pass has sizes written into it does not get through.
"""

import torch
from torch import Tensor, nn

from kit.errors import KitError, in_brief
from kit.models.look import blank, evaluated, hooked


@torch.no_grad()
def resize(model: nn.Module, widths: dict[nn.Conv2d, int], side: int, name: str) -> nn.Module:
    """`model` with its convolutions cut to `widths` and all that follows to what then comes to it, in place.

    Args:
        side: of the blank picture, px.
    Raises:
        KitError: it can't be had with these widths.
    """

    def fit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ins = inputs[0].shape[1]
        match module:
            case nn.Conv2d():
                cut_conv(module, ins, widths.get(module, ins))
            case nn.BatchNorm2d():
                module.num_features = ins
                for key in ("weight", "bias", "running_mean", "running_var"):
                    cut(module, key, ins)
            case nn.Linear():
                module.in_features = inputs[0].shape[-1]
                cut(module, "weight", module.out_features, module.in_features)

    hooks = [m.register_forward_pre_hook(fit) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    try:
        with hooked(hooks), evaluated(model):
            model(blank(model, side))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise KitError(
            f"{name} can't be had with these widths: its forward pass fixes sizes, or they don't belong together ({in_brief(error)}). "
            "Leave student.widths, and where a pruned one was wanted, choose another student."
        ) from None
    return model


def cut_conv(conv: nn.Conv2d, ins: int, outs: int) -> None:
    if conv.groups > 1 and conv.groups != conv.in_channels:
        outs = conv.out_channels  # neither dense nor depthwise: such a one is never cut
        if ins != conv.in_channels:
            raise ValueError(f"{conv.groups} groups of {conv.in_channels} channels, of which {ins} are left")
    elif conv.groups > 1:
        conv.groups = ins
    conv.in_channels, conv.out_channels = ins, outs
    cut(conv, "weight", outs, ins // conv.groups)
    cut(conv, "bias", outs)


def cut(module: nn.Module, key: str, *sizes: int) -> None:
    """The first so many rows (and columns) of a parameter or buffer, where there is one."""
    tensor = getattr(module, key)
    if tensor is None or tensor.shape[: len(sizes)] == sizes:
        return
    smaller = tensor[tuple(slice(size) for size in sizes)].clone()
    if smaller.shape[: len(sizes)] != sizes:
        raise ValueError(f"{key} of {tuple(tensor.shape)} where {sizes} are needed")
    setattr(module, key, nn.Parameter(smaller, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else smaller)
