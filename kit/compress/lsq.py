"""Training with fake quantization: every step of the optimiser sees the weights as they will be packed (LSQ, Esser et al. 2020).

Batch norm is folded first and gone: what is trained is the very network that is packed, a step size per output channel among its
parameters. LSQ as published keeps batch norm in training and learns one step a layer, which folding then splits into steps that were
never trained. The grid begins as packing would choose it (quantize.py), which is nearer than the paper's 2⟨|w|⟩/√Q; steps are rounded to
float16 as the file has them, so the codes in the file are those of the last evaluation.

A step is trained as a factor of the one that was chosen. Adam moves every parameter by about its rate, whatever its size, and LSQ's scaled
gradient, made for SGD, tells it nothing: steps of hundredths, trained as they are at 2e-3, were a fifth longer after a single update, and
the student forgotten.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.compress.fold import fold
from kit.compress.quantize import METHODS, Quantized
from kit.config.schema import Pack

GRID = ("chosen", "step", "low", "high")  # of a layer's tensors those that tell its codes from its weights
LEAST = {True: 2**-24, False: 2**-60}  # of a step, by whether the file has it in float16; its square divides gradients


class Stepped(nn.Module):
    """A layer whose weight is a whole multiple of a learned step.

    chosen: [C], the step to begin with. step: [C], learned, how many times as long it is. low, high: [C, 1, …], ends of the multiples.
    """

    half: bool  # whether the file has the steps in float16

    def begin(self, pack: Pack) -> None:
        weight, middle = self.weight.detach(), 2 ** (pack.bits - 1)
        scale, *shift = METHODS[pack.method](weight.cpu().numpy(), pack.bits).vectors
        first = shift[0].astype(np.int16) - middle if shift else np.full(len(scale), 1 - middle, np.int16)
        low = torch.from_numpy(first).to(weight.device).reshape(-1, *[1] * (weight.ndim - 1))
        chosen = np.where(scale == 0, 1, scale)  # of a channel of zeros any step will do
        self.pack, self.half = pack, scale.dtype == np.float16
        self.step = nn.Parameter(weight.new_ones(len(weight)), self.weight.requires_grad)
        self.register_buffer("chosen", torch.from_numpy(chosen).to(weight))
        self.register_buffer("low", low)
        self.register_buffer("high", low + (2 * middle - 1 if shift else 2 * (middle - 1)))

    @torch.no_grad()
    def take(self, weight: np.ndarray, step: np.ndarray, low: np.ndarray) -> None:
        """A grid and weights that were chosen elsewhere. step, low: [C]; as many multiples are kept."""
        span = self.high - self.low
        self.weight.copy_(torch.from_numpy(weight))
        self.chosen.copy_(torch.from_numpy(step))
        self.step.fill_(1)
        self.low.copy_(torch.from_numpy(low).reshape(self.low.shape))
        self.high.copy_(self.low + span)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if f"{prefix}chosen" not in state and f"{prefix}step" in state:  # of the kit up to 1.7, which trained the steps themselves
            state[f"{prefix}chosen"] = state[f"{prefix}step"]
            state[f"{prefix}step"] = torch.ones_like(state[f"{prefix}step"])
        super()._load_from_state_dict(state, prefix, *rest)

    def scale(self) -> Tensor:
        """The step as the file has it; its gradient is scaled by 1/√(n·Q) (section 2.2), and rounding passes it on. One that is trained
        to nothing stays the least there is, and may grow again."""
        share = 1 / math.sqrt(self.weight[0].numel() * (2 ** (self.pack.bits - 1) - 1))
        step = self.chosen * (self.step * share + (self.step * (1 - share)).detach())
        kept = (step.half().float() if self.half else step).clamp(min=LEAST[self.half])
        return (step + (kept - step).detach()).reshape(self.low.shape)

    def quantized(self) -> Tensor:
        """The weight as it will be packed (equations 1 and 2), differentiable in weight and step (equations 3 and 5)."""
        scale = self.scale()
        multiples = torch.clamp(self.weight / scale, self.low, self.high)
        return (multiples + (multiples.round() - multiples).detach()) * scale

    @torch.no_grad()
    def codes(self) -> Quantized:
        scale = self.scale().flatten().cpu().numpy()
        shift = self.low.flatten().cpu().numpy() + 2 ** (self.pack.bits - 1)
        multiples = torch.clamp(self.weight / self.scale(), self.low, self.high).round().cpu().numpy()
        codes = multiples + 2 ** (self.pack.bits - 1)
        vectors: tuple[np.ndarray, ...] = (scale.astype(np.float16) if self.half else scale,)
        if self.pack.method == "affine":
            codes, vectors = codes - shift.reshape(self.low.shape), (*vectors, shift.astype(np.int8))
        return Quantized(self.pack.method, self.pack.bits, codes.astype(np.uint8), vectors)


class SteppedConv2d(Stepped, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.quantized(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class SteppedLinear(Stepped, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.quantized(), self.bias)


STEPPED = {nn.Conv2d: SteppedConv2d, nn.Linear: SteppedLinear}


def with_steps(student: nn.Module, pack: Pack) -> nn.Module:
    """A folded copy on the CPU whose weights are on grids of `pack`; weights, biases and steps are its parameters. What is on a grid
    already stays on that."""
    model = fold(student)
    for layer in list(model.modules()):
        if type(layer) in STEPPED:
            layer.__class__ = STEPPED[type(layer)]
            layer.begin(pack)
    return model


def trained_codes(model: nn.Module) -> dict[str, Quantized]:
    """{name of a weight: its codes} of the layers that were trained on a grid."""
    return {f"{name}.weight": layer.codes() for name, layer in model.named_modules() if isinstance(layer, Stepped)}
