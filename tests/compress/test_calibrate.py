import copy

import numpy as np
import pytest
import torch
from torch import nn

from kit.compress.calibrate import WIDEST, Inputs, look_at, round_by_photos, samples_of, spread
from kit.compress.fold import fold
from kit.compress.lsq import Stepped, trained_codes
from kit.compress.pack import pack, unpack
from kit.compress.quantize import restore
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Pack
from kit.models.students import STUDENTS, build_student, widths_of

CPU = torch.device("cpu")


def trained_looking(name, widths=()):
    torch.manual_seed(0)
    student = build_student(name, widths, 5)
    student.train()(images(16))
    return student.eval()


def images(count, seed=0):
    """Of even surfaces with some noise: what neighbouring weights look at is nearly the same."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=draw).repeat_interleave(8, 2).repeat_interleave(8, 3) + 0.1 * torch.randn(
        count, 3, 64, 64, generator=draw
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_samples_of_a_convolution_make_its_answers(groups):
    conv, x = nn.Conv2d(4, 8, (3, 2), (2, 1), (2, 1), (1, 2), groups=groups), torch.randn(5, 4, 9, 6)
    samples = samples_of(conv, x, torch.Generator().manual_seed(0))
    rows = conv.weight.reshape(groups, 8 // groups, -1)
    answers = (samples @ rows.transpose(1, 2)).permute(1, 0, 2).reshape(5, -1, 8) + conv.bias
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))  # all places: fewer than PLACES
    assert torch.allclose(answers, conv(x).flatten(2).transpose(1, 2)[:, order], atol=1e-5)


def test_sums_over_batches_are_means_and_covariances():
    x = np.random.default_rng(0).normal(size=(2, 90, 3)) + 4
    inputs = Inputs()
    for part in np.split(x, 3, axis=1):
        inputs.add(torch.from_numpy(part))
    assert np.allclose(inputs.mean(), x.mean(1))
    assert np.allclose(inputs.covariance(), [np.cov(group.T, bias=True) for group in x])


def test_inputs_that_go_together_make_up_for_each_other():
    """Worked by hand: two inputs that are always equal. Rounded alone, 0.4 + 0.4 becomes 0; together one of them becomes 1."""
    together = np.array([[[1.0, 1.0], [1.0, 1.0]]])
    whole = spread(np.array([[[0.4, 0.4]]]), together, np.ones((1, 1)), np.full((1, 1), -8), np.full((1, 1), 7))
    assert sorted(whole.ravel()) == [0, 1]
    apart = spread(np.array([[[0.4, 0.4]]]), np.eye(2)[None], np.ones((1, 1)), np.full((1, 1), -8), np.full((1, 1), 7))
    assert sorted(apart.ravel()) == [0, 0]


def test_of_all_roundings_of_few_weights_a_good_one_is_found():
    """Against all 3^6 neighbours, fifty times."""
    draw = np.random.default_rng(3)
    around = np.stack(np.meshgrid(*[[-1, 0, 1]] * 6)).reshape(6, -1).T
    errors = []
    for _ in range(50):
        mixing, row = draw.normal(size=(6, 6)), draw.normal(size=6) * 3
        covariance = mixing @ mixing.T
        found = spread(row[None, None], covariance[None], np.ones((1, 1)), np.full((1, 1), -30), np.full((1, 1), 30))[0]
        off = np.concatenate([found, np.rint(row)[None], np.rint(row) + around]) - row
        error = np.einsum("kn,nm,km->k", off, covariance, off)
        errors.append([error[0], error[1], error[2:].min()])
    mine, nearest, best = np.mean(errors, axis=0)
    assert mine < 1.25 * best
    assert mine < 0.6 * nearest


def test_more_inputs_than_a_block_are_rounded_as_one_by_one(monkeypatch):
    draw = np.random.default_rng(4)
    mixing = draw.normal(size=(2, 50, 50))
    how = draw.normal(size=(2, 7, 50)), mixing @ mixing.transpose(0, 2, 1), np.full((2, 7), 0.2), np.full((2, 7), -8), np.full((2, 7), 7)
    whole = spread(*how)
    monkeypatch.setattr("kit.compress.calibrate.BLOCK", 8)
    assert (spread(*how) == whole).all()
    assert whole.min() >= -8
    assert whole.max() <= 7


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("method", ["affine", "symmetric"])
def test_a_student_answers_more_like_itself_than_rounded_by_its_weights(name, method, tmp_path):
    """On images that it was not rounded by, as read back from its file."""
    student, config = trained_looking(name), override(recipe("record"), ["pack.bits=4", f"pack.method={method}", f"student.name={name}"])
    x = images(32, seed=9)
    before = student(x).detach()
    error = {}
    for kind, model in (("weights", student), ("photos", round_by_photos(student, config.pack, images(64).split(16), CPU))):
        pack(tmp_path / kind, model, config, widths_of(student), tuple("abcde"), {})
        error[kind] = float((unpack(tmp_path / kind).student(x) - before).detach().square().mean() / before.var())
    assert error["photos"] < 0.8 * error["weights"]


def test_the_file_has_the_codes_that_were_found_and_the_given_student_stays(tmp_path):
    config = override(recipe("record"), ["pack.bits=3"])
    student = trained_looking(config.student.name)
    kept = copy.deepcopy(student.state_dict())
    model = round_by_photos(student, config.pack, [images(16)], CPU)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in student.state_dict().items())
    pack(tmp_path / "student.kit", model, config, widths_of(student), tuple("abcde"), {})
    read = unpack(tmp_path / "student.kit").student.state_dict()
    codes = trained_codes(model)
    assert len(codes) == sum(tensor.ndim > 1 for tensor in read.values())
    assert all((restore(stored) == read[name].numpy()).all() for name, stored in codes.items())
    assert all(stored.codes.max() < 8 for stored in codes.values())


def test_what_rounding_does_to_the_mean_goes_into_the_bias():
    student, x = trained_looking("hw13"), images(64)
    model = round_by_photos(student, Pack(bits=2), x.split(16), CPU)
    first, was = (
        next(m for m in model.modules() if isinstance(m, Stepped)),
        next(m for m in fold(student).modules() if isinstance(m, nn.Conv2d)),
    )
    mean = next(iter(look_at(fold(student), x.split(16)).values())).mean()
    answers = [layer.weight.detach().double().flatten(1).numpy() @ mean[0] + layer.bias.detach().numpy() for layer in (first, was)]
    assert np.allclose(*answers, atol=1e-5)


def test_dead_inputs_zero_channels_and_wide_layers_are_lived_with():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, WIDEST // 4, 1), nn.Conv2d(WIDEST // 4, 4, 3, padding=1))
    with torch.no_grad():
        network[0].bias[:] = -99.0  # nothing passes
        network[2].weight[3] = 0
    assert sorted(look_at(network, [images(4)])) == ["0", "2"]
    model = round_by_photos(network, Pack(bits=8), [images(4)], CPU)
    assert torch.isfinite(model(images(2))).all()
    assert (model(images(2)) - network(images(2))).abs().max() < 1e-2
