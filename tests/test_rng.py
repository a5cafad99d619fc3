"""Random numbers as a function of a seed, a stream and a step."""

import pytest
import torch

from kit.rng import derive, seed_global

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_host_and_device_draw_as_after_torchs_own_seeding(device):
    def draw():
        return torch.rand(3), torch.rand(3, device=device)

    torch.manual_seed(derive(7, "global", 3))
    expected, _ = draw(), seed_global(derive(7, "global", 3), torch.device(device))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(draw(), expected, strict=True))


def test_no_stream_or_step_of_a_seed_is_anothers():
    assert len({derive(seed, stream, step) for seed in (1, 2) for stream in ("global", "teacher") for step in range(50)}) == 200
