import copy

import pytest
import torch
from torch import nn

from kit.compress.fold import fold, unfold
from kit.compress.recalibrate import begin_to_measure, recalibrate
from kit.models.students import build_student


def test_statistics_become_those_of_the_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    views = [2 + 3 * torch.randn(16, 3, 8, 8) for _ in range(4)]
    weights = model[0].weight.clone()
    recalibrate(model, lambda step: (views[step], torch.zeros(16)), steps=4)
    seen = torch.stack([model[0](x).mean((0, 2, 3)) for x in views]).mean(0)
    assert torch.allclose(model[1].running_mean, seen, atol=1e-5)
    assert torch.equal(model[0].weight, weights)
    assert (model.training, model[1].momentum) == (False, 0.1)


def test_a_frozen_norm_keeps_its_statistics():
    model = nn.Sequential(nn.BatchNorm2d(3).requires_grad_(False))
    recalibrate(model, lambda step: (torch.randn(8, 3, 4, 4), torch.zeros(8)), steps=2)
    assert torch.equal(model[0].running_var, torch.ones(3))


@pytest.mark.parametrize("name", ["even", "branched", "inverted"])
def test_an_unfolded_student_answers_as_before_and_may_be_measured_anew(name):
    torch.manual_seed(0)
    student = build_student(name, (), 6)
    for norm in (m for m in student.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    views = [torch.randn(16, 3, 32, 32) for _ in range(4)]
    batches = lambda step: (views[step], torch.zeros(16))  # noqa: E731
    recalibrate(student, batches, steps=4)
    again, x = unfold(fold(student), build_student(name, (), 6)), torch.cat(views)
    before = again(x)
    begin_to_measure(again, batches, steps=4)
    assert torch.allclose(again(x), before, atol=1e-4)
    recalibrate(again, batches, steps=4)  # means of variances that lack how the batches' means differ
    assert (again(x) - before).std() < 0.1 * before.std()
    weights = copy.deepcopy(again.state_dict())
    begin_to_measure(again, batches, steps=4)  # they have seen something now
    assert all(torch.equal(value, weights[key]) for key, value in again.state_dict().items())
