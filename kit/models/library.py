"""Any of timm's networks as a student, by name: built here without weights, and nothing is fetched.

It is rebuilt from its name alone, so it has no widths and can't be pruned. Its norms stay where they are when it is packed: timm's
carry activations, and a norm need not follow the convolution that is written before it.
"""

import difflib

import torch
from torch import Tensor, nn

from kit.errors import KitError

PREFIX = "timm/"


def is_library(name: str) -> bool:
    return name.startswith(PREFIX)


class FromLibrary(nn.Module):
    """timm's network up to its last layer, and a linear one, `fc`, as every student has."""

    def __init__(self, name: str, classes: int):
        """name: `timm/mobilenetv3_small_050`.

        Raises:
            KitError: timm has no such network, with the nearest names.
        """
        import timm  # here: it takes a second, and most students are the kit's own

        super().__init__()
        known = name.removeprefix(PREFIX)
        if not timm.is_model(known):
            near = difflib.get_close_matches(known, timm.list_models(), n=3)
            raise KitError(f"timm has no network {known!r}." + (f" Nearest: {', '.join(PREFIX + n for n in near)}." if near else ""))
        self.body = timm.create_model(known, pretrained=False, num_classes=0)
        self.fc = nn.Linear(self.body.head_hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


def refuse_unusable(name: str, student: nn.Module, image_size: int) -> None:
    """A look at one blank photo, and a tracing: what would fail later, after the photos were decoded.

    Raises:
        KitError: the network takes photos of another size, gives no plain vector, or its code can't be traced.
    """
    try:
        with torch.no_grad():
            student.eval()(torch.zeros(1, 3, image_size, image_size))
        torch.fx.Tracer().trace(student)
    except Exception as error:  # a stranger's code fails in any way it likes
        reason = " ".join(str(error).split())[:160]
        raise KitError(
            f"The student {name!r} can't be used at {image_size} px ({reason}). Choose another, or another data.image_size."
        ) from None
