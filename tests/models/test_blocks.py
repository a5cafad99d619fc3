import copy

import pytest
import torch
from torch import nn

from kit.compress.fold import fold
from kit.models.blocks import Branches, ChannelGate, SqueezeExcite, depthwise, has_width
from kit.models.students import STUDENTS, build_student, count_parameters, widths_of


def trained_looking(model):
    """Norms whose scales and statistics are not those of a new network, in evaluation mode."""
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


CONVOLUTIONS = {
    "3×3": lambda: nn.Conv2d(8, 8, 3, 1, 1, bias=False),
    "3×3, strided, wider": lambda: nn.Conv2d(8, 12, 3, 2, 1, bias=False),
    "5×5 depthwise": lambda: depthwise(8, 5, 1),
    "3×3 depthwise, strided": lambda: depthwise(8, 3, 2),
    "3×3 in two groups": lambda: nn.Conv2d(8, 8, 3, 1, 1, groups=2, bias=False),
    "1×1": lambda: nn.Conv2d(8, 8, 1, bias=False),
}


@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_branches_fuse_into_one_convolution_with_equal_outputs(make):
    torch.manual_seed(1)
    model, x = trained_looking(nn.Sequential(Branches(make()))), torch.randn(4, 8, 9, 9)
    expected, fused = model(x), fold(model)
    assert (fused(x) - expected).abs().max() <= 1e-5
    assert [type(m) for m in fused[0].children()] == [nn.Conv2d, nn.Identity]


def test_a_whole_branched_student_fuses_into_the_plain_one_that_is_counted():
    torch.manual_seed(2)
    student, x = trained_looking(build_student("branched", (), 11)), torch.randn(4, 3, 64, 64)
    fused = fold(student)
    assert (fused(x) - student(x)).abs().max() <= 1e-5 * max(1, student(x).abs().max().item())
    assert count_parameters(student) == count_parameters(build_student("wide", (), 11)) == 59_707
    assert sum(p.numel() for p in student.parameters()) == 61_829
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in fold(build_student("wide", (), 11)).parameters())


def test_branches_train_all_their_parts():
    branches = Branches(depthwise(6, 3, 1))
    branches(torch.randn(4, 6, 8, 8)).square().sum().backward()
    assert len(list(branches.parameters())) == 8
    assert all(p.grad is not None for p in branches.parameters())


def test_squeeze_excite_scales_each_channel_by_a_gate_of_all():
    """Hu et al. 2018, equations 2 to 4, written with matrices."""
    torch.manual_seed(3)
    gate, x = SqueezeExcite(6, 2), torch.randn(3, 6, 5, 5)
    squeezed = x.flatten(2).mean(2)
    hidden = (squeezed @ gate.squeeze.weight[:, :, 0, 0].T + gate.squeeze.bias).clamp(min=0)
    scale = (hidden @ gate.excite.weight[:, :, 0, 0].T + gate.excite.bias + 3).clamp(0, 6) / 6
    assert torch.allclose(gate(x), x * scale[:, :, None, None], atol=1e-6)


def test_a_channel_gate_scales_each_channel_by_its_own_mean():
    gate, x = ChannelGate(), torch.randn(3, 6, 5, 5)
    assert torch.equal(gate(x), x / 2)  # at first all alike
    with torch.no_grad():
        gate.line.weight.fill_(-2)
        gate.line.bias.fill_(0.5)
    scale = ((0.5 - 2 * x.mean((2, 3)) + 3) / 6).clamp(0, 1)
    assert torch.allclose(gate(x), x * scale[:, :, None, None], atol=1e-6)


def test_widths_are_read_from_convolutions_with_a_width_of_their_own():
    student = build_student("inverted", (), 11)
    free = [m.out_channels for m in student.modules() if has_width(m)]
    assert tuple(free) == STUDENTS["inverted"].widths == widths_of(copy.deepcopy(student))
    assert len([m for m in student.modules() if isinstance(m, nn.Conv2d)]) > len(free)
