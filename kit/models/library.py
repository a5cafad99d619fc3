"""Any of timm's networks as a student, by name: built here without weights, and nothing is fetched.

A pruned one is rebuilt by its name and the widths of its plain convolutions (resize.py); a name alone means timm's own widths.
"""

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kit.errors import KitError, in_brief
from kit.models.blocks import following
from kit.models.look import blank, evaluated
from kit.models.resize import resize

PREFIX = "timm/"
SIDE = 96  # px of a look that may be of any size; Inception needs 75, and HRNet and DLA five halvings without a rest


def is_library(name: str) -> bool:
    return name.startswith(PREFIX)


def shapes_on(name: str) -> str:
    """The device on which a student is built whose weights come from elsewhere: shapes alone, which is quick and moves no generator.
    timm's are built whole: they may hold tables of their own."""
    return "cpu" if is_library(name) else "meta"


class FromLibrary(nn.Module):
    """timm's network up to its last layer, and a linear one, `fc`, as every student has."""

    def __init__(self, name: str, classes: int, widths: Sequence[int] = ()):
        """name: `timm/mobilenetv3_small_050`. widths: of its plain convolutions in the order of its modules; empty: timm's own.

        Raises:
            KitError: timm has no such network, with the nearest names, or it can't be had with these widths.
        """
        import timm  # here: it takes a second, and most students are the kit's own

        super().__init__()
        known = name.removeprefix(PREFIX)
        if not timm.is_model(known):
            near = difflib.get_close_matches(known, timm.list_models())
            raise KitError(f"timm has no network {known!r}." + (f" Nearest: {', '.join(PREFIX + n for n in near)}." if near else ""))
        self.body = timm.create_model(known, pretrained=False, num_classes=0)
        self.fc = nn.Linear(self.body.head_hidden_size, classes)
        own = []
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            following(conv, conv.groups > 1)  # said now: a depthwise one of a single channel would look like a plain one
            own += [] if conv.follows else [conv]
        if not widths or list(widths) == [conv.out_channels for conv in own]:
            return
        if len(widths) != len(own) or any(width > conv.out_channels for width, conv in zip(widths, own, strict=True)):
            raise KitError(
                f"{name} has {len(own)} convolutions with a width: leave student.widths empty, or give each one, none above timm's own."
            )
        resize(self, dict(zip(own, widths, strict=True)), self.side, name)

    @property
    def side(self) -> int:
        """Of a photo that it can be shown, px."""
        config = self.body.pretrained_cfg
        return config["input_size"][-1] if config.get("fixed_input_size") else SIDE

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def renamed(weights: Mapping[str, Tensor], student: FromLibrary) -> dict[str, Tensor]:
    """Another program's weights of timm's network, under the student's names."""
    last = student.body.pretrained_cfg.get("classifier")
    if not isinstance(last, str) or f"{last}.weight" not in weights or any(name.startswith("body.") for name in weights):
        return dict(weights)
    own = {f"{last}.{key}": f"fc.{key}" for key in ("weight", "bias")}
    return {own.get(name, f"body.{name}"): tensor for name, tensor in weights.items()}


def refuse_unusable(name: str, student: nn.Module, image_size: int) -> None:
    """A look at one blank photo: what would fail later, after the photos were decoded.

    Raises:
        KitError: the network takes photos of another size, or gives no plain vector.
    """
    try:
        with torch.no_grad(), evaluated(student):
            student(blank(student, image_size))
    except Exception as error:  # a stranger's code fails in any way it likes
        raise KitError(
            f"The student {name!r} can't be used at {image_size} px ({in_brief(error)}). Choose another, or another data.image_size."
        ) from None
