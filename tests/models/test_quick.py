"""A frozen ResNet-18 rearranged for a GPU answers as it did."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from kit.compress.fold import fold_in_place
from kit.models.quick import STAGE, Stem, convolutions, quick
from kit.models.teacher import build_teacher

ARCHITECTURES = ["torchvision/resnet18", "timm/resnet18"]


def folded(arch):
    """With norms that do something, some of them turning signs round."""
    torch.manual_seed(0)
    network = build_teacher(arch, 5).eval().requires_grad_(False)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean, std=0.1)
    return fold_in_place(network)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (96, 63)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_stem_gives_what_its_four_layers_gave(arch, size):
    network, images = folded(arch), torch.randn(2, 3, *size)
    layers = [network.conv1, getattr(network, "relu", None) or network.act1, network.maxpool]
    torch.testing.assert_close(Stem(network.conv1)(images), nn.Sequential(*layers)(images), rtol=1e-4, atol=1e-4)


CONVOLVED = """
import torch
import torch.nn.functional as F
from kit.models.stem import convolve_patches

for outputs, height, width in ((64, 19, 8), (16, 4, 35)):
    x, weight = torch.randn(2, 16, height, width), torch.randn(outputs, 16, 4, 4)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    y = convolve_patches(x, weight)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, F.conv2d(x, weight), rtol=1e-4, atol=1e-3)
print("the same maps")
"""


@pytest.mark.skipif(not find_spec("triton"), reason="no Triton here")
def test_the_stems_kernel_is_a_convolution():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CONVOLVED], capture_output=True, text=True, env=environment)
    assert done.stdout == "the same maps\n", done.stderr


def test_on_a_cpu_and_where_it_is_no_resnet_a_network_stays_as_it_is():
    network = folded("torchvision/resnet18")
    assert quick(network, 64) is network
    assert quick(other := nn.Sequential(nn.Conv2d(3, 8, 3)), 64) is other


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: cuDNN's convolutions with a sum and a ReLU were not tried")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_on_a_gpu_it_is_rearranged_and_answers_alike(arch):
    network = folded(arch).to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    other = quick(network, 96)
    assert isinstance(other.conv1, Stem)
    assert other.conv1.convolve is convolutions()[0]
    assert isinstance(network.conv1, nn.Conv2d)
    images = torch.randn(8, 3, 96, 96, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        before, after = network(images).float(), other(images).float()
    assert (before - after).abs().max() < 0.03 * before.abs().max()
    named = {name for name, _ in other.named_modules() if STAGE.fullmatch(name)}
    assert named == {name for name, _ in network.named_modules() if STAGE.fullmatch(name)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: cuDNN's convolutions with a sum and a ReLU were not tried")
def test_a_network_that_would_answer_otherwise_is_left():
    network = build_teacher("torchvision/resnet18", 5).eval().requires_grad_(False)
    network.layer1[0].conv1.padding_mode = "circular"  # which the rearranged one knows nothing of
    network = fold_in_place(copy.deepcopy(network)).to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    nn.init.normal_(network.layer1[0].conv1.weight)
    assert quick(network, 32) is network
