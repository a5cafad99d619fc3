"""The losses against torchdistill's, where it is installed. It asks for a newer torch than the kit's, and works with this one:
`pip install --no-deps torchdistill`. Its SPKDLoss is left out: it divides the rows by their sum, the paper and its authors' code by their
length. DKD, MLKD, AFD and a CRD without memory it does not have."""

import pytest
import torch

from kit.distill import features, losses

theirs = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is not installed")

N, K = 6, 11
LABELS = torch.tensor([0, 3, 10, 5, 5, 1])


def numbers(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agree(loss, ours, student, teacher):
    """torchdistill's losses take the networks' outputs by path and kind."""
    given = [{"m": {"output": value}} for value in (student, teacher)]
    assert ours.item() == pytest.approx(loss(*given, LABELS).item(), rel=1e-5)


def where():
    return {f"{side}_module_{what}": value for side in ("student", "teacher") for what, value in (("path", "m"), ("io", "output"))}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_and_standardised_kd(temperature):
    s, t = numbers(N, K, seed=0), numbers(N, K, seed=1)
    plain = theirs.KDLoss(**where(), temperature=temperature, alpha=0.0, beta=1.0)
    agree(plain, losses.kd(s, t, temperature) / temperature**2, s, t)
    z = theirs.LogitStdKDLoss(**where(), temperature=temperature, alpha=0.0, beta=1.0)
    agree(z, losses.kd(losses.standardise(s), losses.standardise(t), temperature) / temperature**2, s, t)


def test_dist():
    s, t = numbers(N, K, seed=0), numbers(N, K, seed=1)
    loss = theirs.DISTLoss(**where(), beta=1.5, gamma=0.5, tau=4.0)
    agree(loss, losses.dist(s, t, 4.0, 1.5, 0.5), s, t)


def test_attention_transfer():
    s, t = numbers(N, 3, 4, 4, seed=0), numbers(N, 5, 4, 4, seed=1)
    pair = {"student": {"io": "output", "path": "m"}, "teacher": {"io": "output", "path": "m"}}
    agree(theirs.ATLoss({"pair": pair}, mode="code"), features.at(s, t), s, t)


def test_relational():
    s, t = numbers(N, 8, seed=0), numbers(N, 12, seed=1)
    loss = theirs.RKDLoss("m", "m", dist_factor=1.0, angle_factor=2.0, reduction="mean")
    agree(loss, features.rkd_distance(s, t) + 2 * features.rkd_angle(s, t), s, t)


@pytest.mark.parametrize("side", [2, 5, 8])
def test_hierarchical_context(side):
    s, t = numbers(N, 3, side, side, seed=0), numbers(N, 3, side, side, seed=1)
    loss = theirs.HierarchicalContextLoss(**where())
    given = {"m": {"output": (s, None)}}, {"m": {"output": t}}
    assert features.hcl(s, t).item() == pytest.approx(loss(*given).item())
