import pytest
import torch
import torchvision

from kit.config.recipes import recipe
from kit.config.schema import CE, KD, Hint
from kit.distill import losses
from kit.distill.align import same_size, tap
from kit.distill.objective import Objective, distance
from kit.errors import KitError
from kit.models.students import FrozenStem, build_student


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=11).eval().requires_grad_(False)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 64, 64, generator=generator), torch.randint(11, (6,), generator=generator)


def test_the_boss_objective_is_the_published_formula(teacher):
    """10p²·[(1 − p²)·T²·KL + p²·CE] + Σ w·SmoothL1 over layer1 to layer3, at a p in the middle."""
    student, (x, y), p = build_student("boss", (), 11), batch(), 0.6
    objective = Objective(student, teacher, recipe("boss").distill, 64)
    with torch.no_grad():
        total, values = objective(x, y, p)
        ours = tap(student.train(), ["blocks.0", "blocks.1", "blocks.2"])(x)
        theirs = tap(teacher, ["layer1", "layer2", "layer3"])(x)
    kd, ce = losses.kd(ours["logits"], theirs["logits"], 20), losses.ce(ours["logits"], y)
    hints = sum(w * losses.smooth_l1(ours[f"blocks.{i}"], theirs[f"layer{i + 1}"]) for i, w in enumerate((3, 2, 1)))
    assert total.item() == pytest.approx((10 * p**2 * ((1 - p**2) * kd + p**2 * ce) + hints).item(), rel=1e-4)
    assert values.keys() == {"kd", "ce", "hint layer1", "hint layer2", "hint layer3"}


def test_gradients_reach_student_and_adapters_and_nothing_else(teacher):
    student = build_student("record", (), 11)
    objective = Objective(student, teacher, recipe("record").distill, 64)
    total, _ = objective(*batch(), 0.5)
    total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert len(list(objective.adapters.parameters())) > 0
    assert all(p.grad is not None for p in objective.adapters.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_is_not_moved_by_looking(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    Objective(build_student("record", (), 11), teacher, (KD(),), 64)(*batch(), 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_frozen_stem_stays_in_evaluation_mode_under_the_objective(teacher):
    student = build_student("boss", (), 11)
    objective = Objective(student, teacher, recipe("boss").distill, 64)
    student.train()
    objective(*batch(), 0.5)
    assert not any(m.training for m in student.modules() if isinstance(m, FrozenStem) for m in m.modules())


def test_the_hints_gradient_is_channels_last():
    """Otherwise batch norm's backward takes twelve times as long on a CPU."""
    feature = torch.randn(2, 64, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(Hint(student="a", teacher="b"), feature, torch.zeros_like(feature)), feature)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_stage_that_does_not_exist_is_refused_with_the_nearest(teacher):
    with pytest.raises(KitError, match=r"'layer9'.*layer"):
        Objective(build_student("record", (), 11), teacher, (Hint(student="blocks.1", teacher="layer9"),), 64)


def test_the_gamma_penalty_is_the_sum_of_bn_scales(teacher):
    student = build_student("record", (), 11)
    objective = Objective(student, teacher, (CE(),), 64, gamma_penalty=0.1)
    _, values = objective(*batch(), 0.0)
    wanted = sum(m.weight.abs().sum() for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert values["gamma"].item() == pytest.approx(wanted.item())


def test_maps_meet_at_the_smaller_size_or_are_refused():
    big, small = torch.ones(1, 2, 12, 12), torch.ones(1, 2, 6, 6)
    assert [m.shape[-1] for m in same_size(big, small)] == [m.shape[-1] for m in same_size(small, big)] == [6, 6]
    with pytest.raises(KitError, match="12×12 and 7×7"):
        same_size(big, torch.ones(1, 2, 7, 7))
