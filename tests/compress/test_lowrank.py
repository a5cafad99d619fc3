import pytest
import torch
from torch import nn

from kit.compress.fold import fold
from kit.compress.lowrank import factorise, factors, ranks_of_energy, ranks_up_to, ranks_within
from kit.compress.pack import pack, unpack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.models.students import build_student, count_parameters, widths_of


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 12, 1, bias=False), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12 * 16, 5))


FULL = {"0": (3, 8), "3": (8,), "5": (5,)}


def test_at_full_rank_the_answers_are_equal():
    model, x = network(), torch.randn(2, 3, 8, 8)
    assert torch.allclose(factorise(model, FULL)(x), model(x), atol=1e-5)
    assert isinstance(model[0], nn.Conv2d)


def test_a_matrix_of_low_rank_is_found_exactly_and_another_as_near_as_can_be():
    low = torch.randn(10, 3) @ torch.randn(3, 7)
    first, last = factors(low, (3,))
    assert torch.allclose(last @ first, low, atol=1e-5)
    full = torch.randn(10, 7)
    first, last = factors(full, (4,))
    lost = torch.linalg.svdvals(full)[4:].square().sum()  # Eckart and Young
    assert torch.isclose((last @ first - full).square().sum(), lost, rtol=1e-4)


def test_ranks_keep_the_share_of_energy_and_only_where_it_saves():
    layer = nn.Linear(20, 20)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([3.0, 1.0] + [0.01] * 18)))
    square = nn.Linear(4, 4)
    nn.init.orthogonal_(square.weight)  # of which no rank can be spared
    model = nn.Sequential(layer, square)
    assert [ranks_of_energy(model, share) for share in (0.85, 0.99, 1.0)] == [{"0": (1,)}, {"0": (2,)}, {}]


def test_a_rank_is_every_matrixs_where_that_saves():
    assert ranks_up_to(network(), 2) == {"0": (2, 2), "3": (2,), "5": (2,)}
    assert ranks_up_to(network(), 4) == {"0": (3, 4), "3": (4,), "5": (4,)}
    assert ranks_up_to(network(), 5) == {"0": (3, 5)}  # 8 · 5 + 5 · 12 are more than 8 · 12


def test_what_never_trains_stays_whole():
    student = build_student("boss", (), 11).eval()
    student.fc.requires_grad_(False)  # as SimKD leaves it
    for ranks in (ranks_up_to(fold(student), 2), ranks_of_energy(fold(student), 0.1), ranks_within(student, 60_000)):
        assert ranks
        assert not {"stem.0", "fc"} & ranks.keys()


@pytest.mark.parametrize(("name", "least", "limit", "size"), [("hw7", 140_000, 150_000, 160_000), ("branched", 37_400, 40_000, 42_700)])
def test_a_limit_is_met_from_below_and_the_packed_file_brings_the_ranks(name, least, limit, size, tmp_path):
    torch.manual_seed(1)
    student = build_student(name, (), 11).eval()
    thinner = factorise(fold(student), ranks_within(student, limit))
    assert least < count_parameters(thinner) <= limit
    config = override(recipe("record"), [f"student.name={name}", "student.parameters=null"])
    assert widths_of(thinner) == widths_of(student)
    pack(tmp_path / "s.kit", thinner, config, widths_of(student), ("a",) * 11, {})
    packed, x = unpack(tmp_path / "s.kit"), torch.randn(4, 3, 64, 64)
    assert (packed.student(x) - thinner(x)).abs().max() < 0.1 * thinner(x).std() + 1e-3
    assert count_parameters(packed.student) == count_parameters(thinner)
    assert (tmp_path / "s.kit").stat().st_size < size


def test_a_limit_below_rank_one_is_refused():
    with pytest.raises(KitError, match="At rank one"):
        ranks_within(build_student("record", (), 11), 1_000)
