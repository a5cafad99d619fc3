import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from kit.compress.recalibrate import recalibrate
from kit.compress.surgery import absorb, find_groups, positions, remove, widths_after
from kit.errors import KitError
from kit.models.blocks import Select
from kit.models.students import CIFAR, STUDENTS, FrozenStem, build_student, count_parameters, widths_of

NETWORKS = [
    *STUDENTS,
    "bottleneck/4",
    *(name for name in CIFAR if "8x4" in name),
    "timm/resnet10t",
    "timm/mobilenetv3_small_050",
    "timm/regnety_002",
]


def trained_looking(name):
    torch.manual_seed(3)
    student = build_student(name, (), 5)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.1, 2)
        nn.init.normal_(norm.bias, std=0.1)
    recalibrate(student, lambda step: (torch.randn(8, 3, 64, 64), None), 2)  # else the answers of deep ones explode
    return student


def some_of(groups):
    """A third of every group's channels, drawn."""
    return {group.name: torch.randperm(group.count)[: max(1, group.count // 3)].sort().values for group in groups}


def silenced(student, groups, removed):
    """The whole network with the removed channels' outgoing weights at zero."""
    student = copy.deepcopy(student)
    with torch.no_grad():
        for (name, side), gone in positions(groups, removed).items():
            if side == 1:
                student.get_submodule(name).weight[:, gone] = 0
    return student


@pytest.mark.parametrize("name", NETWORKS)
def test_surgery_equals_silencing_what_the_removed_channels_give(name):
    student, x = trained_looking(name), torch.randn(2, 3, 64, 64)
    groups = find_groups(student, 64)
    removed = some_of(groups)
    slimmer = remove(student, name, 5, groups, removed)
    assert widths_of(slimmer) == widths_after(student, groups, removed)
    assert count_parameters(slimmer) < 0.8 * count_parameters(student)
    with torch.no_grad():
        expected = silenced(student, groups, removed)(x)
        assert (expected - student(x)).abs().max() > 0.01  # that much was silenced
        assert torch.allclose(slimmer(x), expected, atol=1e-5, rtol=1e-5)


def test_a_stage_that_is_cut_to_the_width_of_what_it_is_given_does_not_begin_to_add_it():
    """The first of `fine` has no stride that would forbid it."""
    student, x = trained_looking("fine"), torch.randn(2, 3, 64, 64)
    groups = find_groups(student, 64)
    first = next(group for group in groups if group.count == 48)
    removed = {first.name: torch.arange(16, 48)}
    slimmer = remove(student, "fine", 5, groups, removed)
    assert widths_of(slimmer)[:2] == (16, 16)
    assert torch.allclose(slimmer(x), silenced(student, groups, removed)(x), atol=1e-5, rtol=1e-5)


def test_surgery_may_follow_surgery():
    """Selections of channels too: their indices are of the whole stream."""
    student, x = trained_looking("preresnet8x4"), torch.randn(2, 3, 32, 32)
    for _ in range(2):
        groups = find_groups(student, 32)
        removed = some_of(groups)
        slimmer = remove(student, "preresnet8x4", 5, groups, removed)
        with torch.no_grad():
            assert torch.allclose(slimmer(x), silenced(student, groups, removed)(x), atol=1e-5, rtol=1e-5)
        student = slimmer
    assert all(select.kept < select.total for select in student.modules() if isinstance(select, Select))


@pytest.mark.parametrize("name", ["hw13", "boss", "hw7", "record", "preresnet8x4", "timm/resnet10t"])
def test_a_channel_whose_scale_is_zero_leaves_its_constant_in_the_next_bias(name):
    """Exact wherever no zeros are padded around it: there the network without it answers as the one with it."""
    student, x = trained_looking(name), torch.randn(2, 3, 64, 64)
    groups = [group for group in find_groups(student, 64) if leaves_constants(student, group)]
    removed = some_of(groups)
    with torch.no_grad():
        for (layer, _), gone in positions(groups, removed).items():
            if isinstance(norm := student.get_submodule(layer), nn.BatchNorm2d):
                norm.weight[gone] = 0
        kept = remove(absorb(student, groups, removed, 64), name, 5, groups, removed)
        lost = remove(student, name, 5, groups, removed)
        assert torch.allclose(kept(x), student(x), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(lost(x), student(x), atol=1e-3)


def leaves_constants(student, group):
    """It has a norm to silence it, and what takes it pads no zeros."""
    layers = [(student.get_submodule(place.module), place.side) for place in group.places]
    padded = any(side == 1 and any(getattr(layer, "padding", ())) for layer, side in layers)
    return any(isinstance(layer, nn.BatchNorm2d) for layer, _ in layers) and not padded


def test_a_constant_before_a_padded_convolution_is_not_spread_over_the_border():
    student = trained_looking("resnet8x4")
    groups = [group for group in find_groups(student, 32) if group.name == "layer1.0.conv1"]
    same = absorb(student, groups, some_of(groups), 32).state_dict()
    assert all(torch.equal(same[key], tensor) for key, tensor in student.state_dict().items())


def test_classifier_frozen_stem_and_what_a_norm_over_channels_sees_stay_whole():
    stem = next(m for m in build_student("boss", (), 5).modules() if isinstance(m, FrozenStem))
    assert stem[0].out_channels == 64
    assert all("stem" not in group.name and group.name != "fc" for group in find_groups(trained_looking("boss"), 64))
    normed = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    assert [group.name for group in find_groups(normed, 8)] == ["2"]


def test_a_network_without_removable_channels_is_refused():
    with pytest.raises(KitError, match="no channels that could be removed"):
        find_groups(build_student("timm/vit_tiny_patch16_224", (), 5), 224)


def test_a_network_whose_channels_are_not_followed_to_their_end_is_refused_by_name():
    student = trained_looking("hw13")
    groups = [replace(group, places=group.places[:2]) for group in find_groups(student, 64)]  # nothing is known to take them
    with pytest.raises(KitError, match="hw13 mixes its channels"):
        remove(student, "hw13", 5, groups, some_of(groups))
