"""Each loss of maps against its paper's formula, worked out independently in double precision by loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kit.distill import features
from kit.distill.align import bins, pool_to, shapes
from kit.errors import KitError


def maps(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def length(vector):
    return math.sqrt(sum(x * x for x in vector))


def unit(vector):
    return [x / length(vector) for x in vector]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_attention_transfer_is_the_mean_square_between_unit_maps_of_squares():
    ours, theirs = maps(2, 3, 2, 2), maps(2, 5, 2, 2, seed=1)
    wanted = []
    for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
        seen = [unit([sum(channel[y][x] ** 2 for channel in m) for y in range(2) for x in range(2)]) for m in (a, b)]
        wanted += [(p - q) ** 2 for p, q in zip(*seen, strict=True)]
    assert features.at(ours, theirs).item() == pytest.approx(mean(wanted))


def test_sp_compares_the_rows_of_the_batchs_similarities():
    ours, theirs = maps(3, 2, 2, 2), maps(3, 4, 1, 1, seed=1)
    grams = [[unit([dot(a, b) for b in m]) for a in m] for m in (ours.flatten(1).tolist(), theirs.flatten(1).tolist())]
    wanted = sum((grams[1][i][j] - grams[0][i][j]) ** 2 for i in range(3) for j in range(3)) / 9
    assert features.sp(ours, theirs).item() == pytest.approx(wanted)


def relative_distances(rows):
    apart = [[length([x - y for x, y in zip(a, b, strict=True)]) for b in rows] for a in rows]
    scale = mean(apart[i][j] for i, j in itertools.permutations(range(len(rows)), 2))
    return [[d / scale for d in row] for row in apart]


def test_rkd_compares_distances_over_their_mean():
    ours, theirs = maps(4, 3), 3 * maps(4, 6, seed=1)
    a, b = relative_distances(ours.tolist()), relative_distances(theirs.tolist())
    wanted = mean(huber(a[i][j] - b[i][j]) for i in range(4) for j in range(4))
    assert features.rkd_distance(ours, theirs).item() == pytest.approx(wanted)


def cosine(rows, i, j, k):
    to_j, to_k = ([x - y for x, y in zip(rows[n], rows[i], strict=True)] for n in (j, k))
    return dot(unit(to_j), unit(to_k)) if i not in (j, k) else 0.0


def test_rkd_compares_the_angles_of_triples():
    ours, theirs = maps(4, 3).tolist(), maps(4, 6, seed=1).tolist()
    triples = itertools.product(range(4), repeat=3)
    wanted = mean(huber(cosine(ours, *t) - cosine(theirs, *t)) for t in triples)
    assert features.rkd_angle(maps(4, 3), maps(4, 6, seed=1)).item() == pytest.approx(wanted)


def test_rkd_has_a_finite_gradient_where_two_photos_are_one():
    ours = maps(1, 3).expand(3, 3).clone().requires_grad_()
    (features.rkd_distance(ours, maps(3, 6)) + features.rkd_angle(ours, maps(3, 6))).backward()
    assert ours.grad.isfinite().all()


def test_crd_tells_a_photo_from_the_batchs_others():
    ours, theirs, tau = maps(3, 4).tolist(), maps(3, 4, seed=1).tolist(), 0.3
    wanted = 0.0
    for i, j in itertools.product(range(3), repeat=2):
        power = math.exp(dot(unit(ours[i]), unit(theirs[j])) / tau)
        h = power / (power + 2 / 3)
        wanted -= math.log(h if i == j else 1 - h) / 3
    assert features.crd(maps(3, 4), maps(3, 4, seed=1), tau).item() == pytest.approx(wanted)


def test_hcl_is_the_mean_square_at_every_level_each_half_the_one_before():
    ours, theirs = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)

    def level(size):
        means = [[m[n, c, y : y + size, x : x + size].mean().item() for n, c, y, x in places(size)] for m in (ours, theirs)]
        return mean((a - b) ** 2 for a, b in zip(*means, strict=True))

    def places(size):
        return itertools.product(range(2), range(3), range(0, 4, size), range(0, 4, size))

    wanted = (level(1) + level(2) / 2 + level(4) / 4) / 1.75  # a map of 4×4 has no coarser 4×4
    assert features.hcl(ours, theirs).item() == pytest.approx(wanted)


def test_afd_weighs_the_students_stages_by_their_shares():
    student, teacher, shares = maps(2, 3, 5), maps(2, 5, seed=1), maps(2, 3, seed=2).softmax(1)
    wanted = mean(
        sum(shares[n, s].item() * mean((student[n, s, i].item() - teacher[n, i].item()) ** 2 for i in range(5)) for s in range(3))
        for n in range(2)
    )
    assert features.afd(student, teacher, shares).item() == pytest.approx(wanted)


@pytest.mark.parametrize("size", [(3, 3), (2, 4), (5, 1), (7, 8)])
def test_maps_of_any_sizes_are_pooled_as_adaptive_pooling_does(size):
    x = maps(2, 3, 7, 8)
    assert torch.allclose(pool_to(x, size), F.adaptive_avg_pool2d(x, size))
    assert bins(7, 3, torch.ones(1)).sum(1).tolist() == pytest.approx([1.0] * 3)


def test_pooling_by_parts_is_traced_with_its_parts():
    """A compiler looks through a cache, and what is made on the host inside it could not be recorded on a GPU."""
    x, traced = torch.randn(2, 3, 7, 7), []

    def trace(graph, inputs):
        traced.extend(node for node in graph.graph.nodes if node.op == "call_function" and node.target is torch.zeros)
        return graph.forward

    assert torch.equal(torch.compile(pool_to, backend=trace, fullgraph=True)(x, (3, 3)), pool_to(x, (3, 3)))
    assert traced == []


def test_a_list_of_modules_which_never_runs_itself_gives_no_map():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(3, 4, 1)])

        def forward(self, x):
            return self.parts[0](x).mean((2, 3))

    assert shapes(Listed(), ["parts.0"], 8) == {"parts.0": (4, 8, 8)}
    with pytest.raises(KitError, match="'parts', which gives no feature map"):
        shapes(Listed(), ["parts"], 8)
