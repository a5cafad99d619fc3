import torch
from torch import nn

from kit.compress.recalibrate import recalibrate


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
