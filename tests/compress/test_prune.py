import copy

import pytest
import torch
from torch import nn

from kit.compress.prune import prune_channels, slim
from kit.errors import KitError
from kit.models.students import STUDENTS, FrozenStem, build_student, count_parameters, widths_of


def trained_looking(name):
    """A student whose batch norms have scales and statistics worth ranking."""
    torch.manual_seed(3)
    student = build_student(name, (), 11)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 2)
            nn.init.normal_(module.bias, std=0.1)
    student.train()(torch.randn(8, 3, 64, 64))
    return student.eval()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_slimmed_student_meets_its_limit_from_below_and_is_rebuilt_from_widths(name):
    student = trained_looking(name)
    before, limit = copy.deepcopy(student.state_dict()), int(STUDENTS[name].parameters * 0.7)
    slimmer, widths = slim(student, name, 11, 64, limit)
    assert 0.93 * limit <= count_parameters(slimmer) <= limit
    assert widths_of(slimmer) == widths
    assert min(widths) >= 1
    assert slimmer.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 11)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_the_channels_with_the_smallest_scales_go():
    student = trained_looking("hw13")
    norm = student.cnn[8]  # after the third convolution
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.weight[::2] = 1e-4
    kept = prune_channels(student, 0.2, 64).cnn[8].weight
    assert (kept == 2.0).all()


def test_surgery_equals_silencing_the_removed_channels():
    """The pruned network answers as the whole one does when the lost channels' outgoing weights are zero."""
    student, x = trained_looking("hw13"), torch.randn(4, 3, 64, 64)
    norm, following = student.cnn[8], student.cnn[11]
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.weight[5:15] = 1e-4
    others = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d) and m is not norm]
    for other in others:
        nn.init.constant_(other.weight, 3.0)
    pruned = prune_channels(student, 10 / (4 + 16 + 64 + 84), 64)
    assert widths_of(pruned) == (4, 16, 54, 84)
    with torch.no_grad():
        following.weight[:, 5:15] = 0
        assert torch.allclose(pruned.eval()(x), student.eval()(x), atol=1e-5)


def test_the_frozen_stem_is_never_pruned():
    slimmer, widths = slim(trained_looking("boss"), "boss", 11, 64, 60_000)
    assert widths[0] == 64
    assert not any(p.requires_grad for m in slimmer.modules() if isinstance(m, FrozenStem) for p in m.parameters())


def test_a_limit_that_nothing_fits_is_refused():
    with pytest.raises(KitError, match=r"fits into 100 parameters.*prune.keep"):
        slim(trained_looking("record"), "record", 11, 64, 100)
