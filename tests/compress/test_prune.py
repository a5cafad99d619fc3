import copy

import pytest
import torch
from torch import nn

from kit.compress.criteria import CRITERIA
from kit.compress.prune import Cost, Target, choose, slim
from kit.compress.surgery import Group, find_groups, remove
from kit.config.schema import Prune
from kit.errors import KitError
from kit.models.cost import count_macs
from kit.models.students import STUDENTS, FrozenStem, build_student, count_parameters, widths_of


def trained_looking(name):
    """A student whose batch norms have scales and statistics worth ranking."""
    torch.manual_seed(3)
    student = build_student(name, (), 11)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 2)
            nn.init.normal_(module.bias, std=0.1)
    student.train()(torch.randn(8, 3, 64, 64))
    return student.eval()


def slimmed(name, target, student=None, **how):
    return slim(student or trained_looking(name), name, 11, 64, Prune(**how), target, batches=batch, size_of=count_parameters)


def batch(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(8, 3, 64, 64, generator=draw), torch.randint(11, (8,), generator=draw)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_slimmed_student_meets_its_limit_from_below_and_is_rebuilt_from_widths(name):
    student = trained_looking(name)
    before, limit = copy.deepcopy(student.state_dict()), int(STUDENTS[name].parameters * 0.7)
    slimmer, widths = slimmed(name, Target(limit), student)
    assert 0.97 * limit <= count_parameters(slimmer) <= limit
    assert widths_of(slimmer) == widths
    assert slimmer.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 11)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_criterion_and_scope_meets_parameters_and_macs_to_a_channel(criterion, scope):
    how = {"criterion": criterion, "scope": scope}
    assert 29_800 < count_parameters(slimmed("record", Target(30_000, fill=True), **how)[0]) <= 30_000
    macs = sum(count_macs(trained_looking("record"), 64).values()) // 2
    assert 0.98 * macs < sum(count_macs(slimmed("record", Target(macs=macs, fill=True), **how)[0], 64).values()) <= macs


def test_a_tenth_of_every_layer_stays_in_any_case():
    """Of this stem every channel but one would go."""
    student = trained_looking("wide")
    with torch.no_grad():
        for norm in (student.stem[1], student.blocks[0].bn1):  # a depthwise convolution has its input's channels
            norm.weight.copy_(torch.eye(16)[0] + 1e-6)
    _, widths = slimmed("wide", Target(30_000), student)
    assert widths[0] == 2  # of 16


def test_a_target_of_bytes_is_met_by_asking_what_each_candidate_takes():
    asked = []
    slimmer, _ = slim(
        trained_looking("hw13"), "hw13", 11, 64, Prune(), Target(bytes=30_000), size_of=lambda s: asked.append(s) or count_parameters(s)
    )
    assert 29_000 < count_parameters(slimmer) <= 30_000
    assert len(asked) < 12


@pytest.mark.parametrize("name", ["record", "branched", "inverted"])
def test_what_a_choice_costs_is_known_before_it_is_built(name):
    student = trained_looking(name)
    groups = find_groups(student, 64)
    cost, removed = Cost(student, groups, 64), {group.name: torch.arange(2) for group in groups}
    slimmer = remove(student, name, 11, groups, removed)
    for counts, network in (([0] * len(groups), student), ([2] * len(groups), slimmer)):
        assert cost(counts) == (count_parameters(network), sum(count_macs(network, 64).values()))


def test_the_channels_with_the_smallest_scales_go():
    student = trained_looking("hw13")
    norm = student.cnn[8]  # after the third convolution
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.weight[::2] = 1e-4
    kept = slimmed("hw13", Target(31_000), student)[0].cnn[8].weight
    assert (kept == 2.0).all()


def test_what_a_lost_channel_said_whatever_it_saw_stays_in_the_next_bias_where_that_is_asked():
    student = trained_looking("hw13")
    with torch.no_grad():
        student.cnn[8].weight[::2] = 0  # what they say is their bias
    networks = [slimmed("hw13", Target(31_000), student, absorb=absorb)[0].eval() for absorb in (True, False)]
    x = torch.randn(4, 3, 64, 64)
    whole, (absorbed, left_out) = student.eval()(x), (network(x) for network in networks)
    assert (absorbed - whole).abs().mean() < (left_out - whole).abs().mean() / 2


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_a_channel_that_nothing_takes_goes_first(criterion):
    student = trained_looking("hw13")
    with torch.no_grad():
        student.cnn[11].weight[:, 7] = 0
        student.cnn[7].weight[7] = 0
        student.cnn[8].weight[7] = 0
        student.cnn[8].bias[7] = 0
    score = CRITERIA[criterion](student, find_groups(student, 64), 0, batch)["cnn.7"]
    assert score.argmin() == 7


def test_taylor_leaves_weights_statistics_and_what_is_frozen_as_they_were():
    student = trained_looking("boss")
    before = copy.deepcopy(student.state_dict())
    CRITERIA["taylor"](student, find_groups(student, 64), 0, batch)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    assert [p.requires_grad for p in student.parameters()] == [p.requires_grad for p in build_student("boss", (), 11).parameters()]


def test_taylor_passes_over_photos_without_a_label():
    student = trained_looking("hw13")
    groups = find_groups(student, 64)

    def score(batches):
        return CRITERIA["taylor"](student, groups, 0, batches)

    def half(step):
        images, labels = batch(step)
        return images, labels.where(torch.arange(8) < 4, -1)

    without = score(lambda step: tuple(part[:4] for part in batch(step)))
    assert all(torch.allclose(total, without[name], rtol=1e-3, atol=1e-5) for name, total in score(half).items())
    nothing = score(lambda step: (batch(step)[0], torch.full((8,), -1)))
    assert all(torch.equal(total, torch.zeros_like(total)) for total in nothing.values())


def test_random_pruning_is_drawn_from_its_seed_alone():
    student, groups = trained_looking("record"), find_groups(trained_looking("record"), 64)
    one, same, other = (CRITERIA["random"](student, groups, seed, None) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_per_layer_thresholds_take_an_equal_share_of_every_layer():
    _, widths = slimmed("hw7", Target(80_000), scope="layer", criterion="magnitude")
    shares = [width / whole for width, whole in zip(widths, STUDENTS["hw7"].widths, strict=True)]
    assert max(shares) - min(shares) < 0.1


def test_widths_are_multiples_and_layers_keep_what_is_asked():
    for fill in (False, True):
        assert all(width % 8 == 0 for width in slimmed("record", Target(30_000, fill=fill), multiple=8)[1])
    assert min(slimmed("hw7", Target(60_000), at_least=12)[1]) >= 12
    assert min(slimmed("hw7", Target(60_000))[1]) < 12


def test_the_frozen_stem_is_never_pruned():
    slimmer, widths = slimmed("boss", Target(60_000))
    assert widths[0] == 64
    assert not any(p.requires_grad for m in slimmer.modules() if isinstance(m, FrozenStem) for p in m.parameters())


@pytest.mark.parametrize(
    ("target", "wanted", "has"),
    [
        (Target(100), "100 parameters", "parameters"),
        (Target(macs=100), "100 MACs", "parameters and [0-9,]+ MACs"),
        (Target(bytes=100), "100 bytes", "parameters and [0-9,]+ bytes"),
    ],
)
def test_a_limit_that_nothing_fits_is_refused(target, wanted, has):
    with pytest.raises(KitError, match=f"fits into {wanted}: the smallest.* has [0-9,]+ {has}. Raise prune.keep"):
        slimmed("record", target)


def test_a_limit_that_too_little_may_go_for_is_refused():
    with pytest.raises(KitError, match=r"prune.at_least"):
        slimmed("record", Target(20_000), at_least=50)


def test_criteria_that_lack_what_they_need_say_so():
    with pytest.raises(KitError, match="needs photos"):
        slim(trained_looking("hw13"), "hw13", 11, 64, Prune(criterion="taylor"), Target(30_000), size_of=count_parameters)
    with pytest.raises(KitError, match="no batch norm whose γ"):
        slim(build_student("timm/convnext_atto", (), 5), "timm/convnext_atto", 5, 64, Prune(), Target(30_000), size_of=count_parameters)


def test_what_fits_again_goes_to_the_channel_that_was_worth_most():
    """Of three with one lost channel each the last one to go costs 3, and one parameter is left over."""
    groups, costs = [Group(name, 2, ()) for name in "abc"], (1, 1, 3)
    scores = {name: torch.tensor([worth, 9.0]) for name, worth in zip("abc", (0.1, 0.2, 0.3), strict=True)}
    fits = lambda gone: sum(cost * count for cost, count in zip(costs, gone, strict=True)) >= 4  # noqa: E731
    assert choose(groups, scores, Prune(at_least=1), fits, fill=False) == [1, 1, 1]
    assert choose(groups, scores, Prune(at_least=1), fits, fill=True) == [1, 0, 1]
