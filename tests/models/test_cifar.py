import pytest
import torch
from torch import nn

from kit.distill.align import LOGITS, look
from kit.errors import KitError
from kit.models.blocks import Select
from kit.models.students import CIFAR, build_student, count_parameters, widths_of


@pytest.mark.parametrize("name", CIFAR)
def test_the_table_holds_the_exact_counts_and_widths(name):
    with torch.device("meta"):
        assert count_parameters(build_student(name, (), 11)) == CIFAR[name].parameters
        assert widths_of(build_student(name, (), 11)) == CIFAR[name].widths


def test_published_counts_for_cifar_100_are_met():
    with torch.device("meta"):
        counts = {name: count_parameters(build_student(name, (), 100)) for name in CIFAR}
    assert (counts["resnet8x4"], counts["resnet32x4"]) == (1_233_540, 7_433_860)


def test_tensors_have_the_names_of_published_checkpoints():
    names = set(build_student("resnet8x4", (), 100).state_dict())
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "layer3.0.bn2.bias", "fc.bias"} <= names


def test_a_selection_gives_the_chosen_channels_and_the_network_is_rebuilt_with_it():
    widths = list(CIFAR["preresnet8x4"].widths)
    widths[1] = 5  # of the stream's 32
    student = build_student("preresnet8x4", widths, 4)
    student.layer1[0].select.index.copy_(torch.tensor([1, 3, 30, 31, 8]))
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(student.layer1[0].select(x), x[:, [1, 3, 30, 31, 8]])
    again = build_student("preresnet8x4", widths_of(student), 4)
    again.load_state_dict(student.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(look(again.eval(), ["layer2"], x)[LOGITS], student.eval()(x))


def test_a_selection_of_all_channels_is_the_stream_itself():
    x = torch.randn(2, 6, 4, 4)
    assert Select(6, 6)(x) is x


def test_a_timm_network_is_had_with_smaller_widths_and_answers():
    whole = build_student("timm/resnet10t", (), 7)
    widths = [width // 2 for width in widths_of(whole)]
    half = build_student("timm/resnet10t", widths, 7)
    assert widths_of(half) == tuple(widths)
    assert half.training
    assert half(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    norms = [m for m in half.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(len(norm.running_mean) == norm.num_features for norm in norms)


def test_timm_networks_that_are_unknown_or_fix_sizes_are_refused_by_name():
    with pytest.raises(KitError, match=r"no network 'resnet9t'. Nearest: timm/"):
        build_student("timm/resnet9t", (), 5)
    with pytest.raises(KitError, match=r"none above timm's own"):
        build_student("timm/resnet10t", [4], 5)
    whole = build_student("timm/repvgg_a0", (), 5)
    with pytest.raises(KitError, match=r"timm/repvgg_a0 can't be had with these widths.*fixes sizes"):
        build_student("timm/repvgg_a0", [widths_of(whole)[0] - 8, *widths_of(whole)[1:]], 5)
