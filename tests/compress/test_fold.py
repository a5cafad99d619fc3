import pytest
import torch
from torch import nn

from kit.compress.fold import fold, unfold
from kit.compress.recalibrate import recalibrate
from kit.errors import KitError
from kit.models.students import STUDENTS, build_student, widths_of
from kit.models.teacher import build_teacher


def trained_looking(name):
    torch.manual_seed(4)
    student = build_student(name, (), 11)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.normal_(norm.weight)  # negative ones too
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.2, 3)
    return student


@pytest.mark.parametrize("name", STUDENTS)
def test_a_folded_student_answers_as_before_and_has_no_norm_left(name):
    student, x = trained_looking(name).eval(), torch.randn(4, 3, 64, 64)
    folded = fold(student)
    assert torch.allclose(folded(x), student(x), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert widths_of(folded) == widths_of(student)
    assert all(m.bias.requires_grad == m.weight.requires_grad for m in folded.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("arch", ["torchvision/resnet18", "timm/resnet18"])
def test_a_folded_teacher_answers_as_before_and_has_no_norm_left(arch):
    teacher, x = build_teacher(arch, 11).eval(), torch.randn(2, 3, 64, 64)
    for norm in [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    folded = fold(teacher)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert torch.allclose(folded(x), teacher(x), atol=1e-3, rtol=1e-3)


def test_folding_leaves_the_given_student_and_its_mode_alone():
    student = trained_looking("record").train()
    before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
    assert not fold(student).training
    assert student.training
    assert all(torch.equal(before[key], tensor) for key, tensor in student.state_dict().items())


@pytest.mark.parametrize("name", STUDENTS)
def test_an_unfolded_student_has_the_trained_shape_and_the_same_answers(name):
    folded, x = fold(trained_looking(name)), torch.randn(4, 3, 64, 64)
    unfolded = unfold(folded, trained_looking(name))
    assert unfolded.state_dict().keys() == build_student(name, (), 11).state_dict().keys()
    assert torch.allclose(unfolded(x), folded(x), atol=1e-4, rtol=1e-4)


def test_a_norm_that_does_not_belong_to_the_convolution_before_it_is_refused():
    with pytest.raises(KitError, match="has 5 channels, the convolution before it 4"):
        fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5)))


def test_a_norm_before_its_convolution_stays():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3)).eval()
    assert isinstance(fold(model)[0], nn.BatchNorm2d)


class OutOfOrder(nn.Module):
    """As some of timm's: the norm that comes after the convolution in the list works on what goes into it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pretrained_cfg = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), {}
        nn.init.constant_(self.norm.running_mean, 4.0)

    def forward(self, x):
        return self.conv(self.norm(x)).relu().mean((2, 3))


def test_a_norm_of_timms_that_runs_before_the_convolution_it_is_listed_after_stays():
    student = build_student("timm/lcnet_035", (), 5)
    student.body, student.fc = OutOfOrder(), nn.Linear(3, 5)
    folded, x = fold(student), torch.randn(2, 3, 32, 32)
    assert isinstance(folded.body.norm, nn.BatchNorm2d)
    assert torch.equal(folded(x), student.eval()(x))


@pytest.mark.parametrize("name", ["timm/lcnet_035", "timm/mobilenetv3_small_050", "timm/dla46_c"])
def test_norms_of_timms_are_folded_with_their_activations_left(name):
    student, x = trained_looking(name).eval(), torch.randn(2, 3, 64, 64)
    recalibrate(student, lambda step: (torch.randn(8, 3, 64, 64), None), 2)
    folded = fold(student)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert torch.allclose(folded(x), student.eval()(x), atol=1e-4, rtol=1e-4)
