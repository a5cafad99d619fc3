"""A GPU's views are those of torch's passes. The kernel is run here by Triton's interpreter; on a GPU as it is."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from kit.augment.views import kernel, show_views, way_to_show

COMPARED = """
import sys
import torch
from kit.augment.kernel import show
from kit.augment.views import draw_views, show_views
from kit.augment.warp import line_to_input
from kit.config.schema import Augment, Data

device, data = torch.device(sys.argv[1]), Data(image_size=30, cache_size=48)
line, square = line_to_input(data.mean, data.std, device), 48
sizes = torch.tensor([[60, 48], [40, 48], [30, 20], [100, 100], [48, 48], [500, 375]])  # two smaller than their square
pixels = torch.randint(256, (len(sizes), square, square, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
ways = {"crop_scale": None}, {"brightness": 0.9}, {"rotate": 30}, {"rotate": 180, "affine_rotate": 30, "vertical_flip": 0.5}
for changes in ways:
    augment = Augment(**{"crop_scale": (0.5, 1), **changes})
    numbers = draw_views(sizes, square, torch.Generator().manual_seed(1), data, augment)
    rest = 30, line, (augment.brightness > 0, False, False)
    views = show(pixels.to(device), numbers.to(device), *rest).cpu()
    same = show_views(pixels, numbers, 30, tuple(t.cpu() for t in line), rest[-1])
    assert views.shape == same.shape and views.is_contiguous(memory_format=torch.channels_last)
    differs = (views - same).abs()
    assert differs.quantile(0.999) < 1e-3, (changes, differs.max())  # a corner's edge may fall to either side
    assert len(changes) < 2 or (same == line[0].cpu()).all(1).float().mean() > 0.05, "no black corners in this comparison"
print("the same views")
"""


def compared(program, device, **environment):
    done = subprocess.run([sys.executable, "-c", program, device], capture_output=True, text=True, env=os.environ | environment)
    assert done.stdout == "the same views\n", done.stderr


WRONG = """
import torch
import kit.augment.kernel as kernels
from kit.augment.views import kernel

right, device = kernels.show, torch.device("cpu")
assert kernel(device) is right
kernel.cache_clear()
kernels.show = lambda *given: right(*given) * 1.01
assert kernel(device) is None
print("the same views")
"""


@pytest.mark.skipif(not find_spec("triton"), reason="no Triton here")
def test_the_kernel_makes_torchs_views():
    compared(COMPARED, "cpu", TRITON_INTERPRET="1")


@pytest.mark.skipif(not find_spec("triton"), reason="no Triton here")
def test_a_kernel_that_makes_other_views_is_not_taken():
    compared(WRONG, "cpu", TRITON_INTERPRET="1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the compiled kernel was not tried")
def test_the_kernel_makes_torchs_views_on_a_gpu():
    compared(COMPARED, "cuda")
    assert kernel(torch.device("cuda"))


def test_a_machine_where_the_kernel_does_not_run_makes_the_views_by_torchs_passes():
    assert way_to_show(torch.device("cpu"), (False, False, False)) is show_views
    assert kernel(torch.device("cpu")) is None  # Triton compiles for no CPU: to the kit as a card whose driver refuses it
