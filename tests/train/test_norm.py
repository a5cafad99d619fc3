import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from kit.train.average import remeasure
from kit.train.norm import shared_norms
from kit.world import World


@pytest.fixture
def group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_a_norm_over_all_processes_is_the_librarys_own_where_one_has_all_images(kind, group):
    torch.manual_seed(0)
    ours, x = kind(6), torch.randn(8, 6, 5, 5) * 3 + 1
    theirs, inputs = copy.deepcopy(ours), [x.clone().requires_grad_() for _ in range(2)]
    with shared_norms(nn.ModuleList([ours]), World(0, 2)):
        assert type(ours) is not kind
        answers = ours(inputs[0]), theirs(inputs[1])
    for answer in answers:
        answer.square().sum().backward()
    assert type(ours) is kind
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    assert all(torch.allclose(buffer, other) for buffer, other in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_a_network_without_norms_is_measured_anew_in_two_processes_too():
    """As training on the grid and of thin layers leaves it, where they are folded."""
    remeasure(nn.Linear(6, 3), lambda step: (torch.ones(4, 6), torch.ones(4)), 2, World(0, 2))
