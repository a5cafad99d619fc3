import time

import torch
from torch import nn

from kit.models.cost import activation_bytes, count_macs, step_seconds
from kit.models.students import build_student


def test_macs_are_those_of_the_forward_pass():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8))
    assert count_macs(model, 32) == {"0": 16 * 16 * 8 * 27, "1": 16 * 16 * 8 * 9}
    assert not any(module._forward_hooks for module in model.modules())


def test_activations_are_the_maps_that_backward_needs():
    """A convolution keeps its input, a ReLU its output, which is the next convolution's input: both maps once."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    assert activation_bytes(model, 8) == (3 + 4) * 8 * 8 * 4


def test_a_step_that_has_more_to_do_takes_longer():
    thin, thick = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), nn.Sequential(nn.Conv2d(3, 256, 9), nn.Flatten())
    assert 0 < step_seconds(thin, 16, 4, 3) < step_seconds(thick, 16, 4, 3)


def test_counting_moves_nothing_whichever_mode_the_network_is_in():
    """A blank photo in training mode would move the running means, and pruning would cut other channels after a resume."""
    network = build_student("record", (), 6).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_macs(network, 32)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_step_that_warms_up_does_not_count():
    class Cold(nn.Linear):
        def forward(self, x):
            time.sleep(0.4 * (not hasattr(self, "warm")))
            self.warm = True
            return super().forward(x.mean((2, 3)))

    assert step_seconds(Cold(3, 2), 8, 2, 1) < 0.1


def test_a_layer_that_is_called_twice_multiplies_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

        def forward(self, x):
            return self.conv(self.conv(x))

    assert count_macs(Twice(), 8) == {"conv": 2 * 64 * 3 * 27}
