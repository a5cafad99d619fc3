import copy

import numpy as np
import pytest
import torch
from torch import nn

from kit.compress.calibrate import round_by_photos
from kit.compress.fold import fold
from kit.compress.lsq import Stepped, SteppedLinear, trained_codes, with_steps
from kit.compress.pack import pack, unpack
from kit.compress.quantize import restore
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Pack
from kit.distill.align import LOGITS, look
from kit.models.students import STUDENTS, build_student, count_parameters, widths_of


def trained_looking(name="record"):
    torch.manual_seed(0)
    student = build_student(name, (), 5)
    student.train()(torch.randn(16, 3, 64, 64))
    return student.eval()


def taught(model, x, steps=8):
    """A few steps of Adam towards other answers."""
    optimizer, wanted = torch.optim.Adam(model.parameters(), 2e-3), torch.randn(len(x), 5, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("method", ["affine", "symmetric"])
def test_it_begins_on_the_grid_that_packing_would_choose(name, method):
    student, x = trained_looking(name), torch.randn(4, 3, 64, 64)
    stepped = with_steps(student, Pack(bits=8, method=method))
    assert (stepped(x) - fold(student)(x)).abs().max() < 0.2 * student(x).std() + 1e-3
    frozen = [p.requires_grad for p in fold(student).parameters() if p.ndim == 4]
    assert [layer.step.requires_grad for layer in stepped.modules() if isinstance(layer, Stepped)][: len(frozen)] == frozen


@pytest.mark.parametrize("method", ["affine", "symmetric"])
def test_the_packed_weights_are_those_that_were_trained_to_the_bit(method, tmp_path):
    how, x = Pack(bits=4, method=method), torch.randn(8, 3, 64, 64)
    stepped = with_steps(trained_looking(), how)
    before = trained_codes(stepped)["blocks.0.pointwise.weight"].codes
    taught(stepped, x)
    config = override(recipe("record"), ["student.name=record", "pack.bits=4", f"pack.method={method}"])
    pack(tmp_path / "s.kit", stepped, config, widths_of(stepped), tuple("abcde"), {})
    packed = unpack(tmp_path / "s.kit")
    for name, layer in stepped.named_modules():
        if isinstance(layer, Stepped):
            assert torch.equal(packed.student.get_submodule(name).weight, layer.quantized())
    assert (trained_codes(stepped)["blocks.0.pointwise.weight"].codes != before).any()
    assert packed.parameters == count_parameters(trained_looking())


def test_codes_have_their_bits_and_lead_back_to_the_weights():
    stepped = with_steps(trained_looking("hw13"), Pack(bits=3))
    for name, stored in trained_codes(stepped).items():
        assert stored.codes.max() < 8
        assert (restore(stored) == stepped.get_submodule(name.removesuffix(".weight")).quantized().detach().numpy()).all()


def test_gradients_are_those_of_the_paper():
    """Equation 3 for the step, a straight path for weights within the range and none beyond it (equation 5)."""
    stepped = nn.Linear(3, 1, bias=False)
    stepped.__class__ = SteppedLinear
    stepped.begin(Pack(bits=3, method="symmetric"))
    with torch.no_grad():
        stepped.weight.copy_(torch.tensor([[0.6, -5.0, 9.0]]))
        stepped.chosen.fill_(1.0)
    stepped.quantized().sum().backward()
    assert stepped.weight.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert torch.isclose(stepped.step.grad, torch.tensor([(1 - 0.6) - 3 + 3]) / (3 * 3) ** 0.5).all()


def test_training_on_the_grid_lowers_the_loss_and_taps_see_through_it():
    stepped, x = with_steps(trained_looking("hw13"), Pack(bits=4)), torch.randn(8, 3, 64, 64)
    assert torch.equal(look(stepped, ["cnn.3"], x)[LOGITS], stepped(x))
    assert taught(copy.deepcopy(stepped), x, 1) > 1.2 * taught(stepped, x, 40)


def test_an_update_changes_a_step_by_its_share_however_small_it_is():
    """Adam's moves are as large as its rate: of the step itself, they were of another size for every layer."""
    stepped, x = with_steps(trained_looking(), Pack(bits=8)), torch.randn(8, 3, 64, 64)
    layers = [layer for layer in stepped.modules() if isinstance(layer, Stepped)]
    before = [layer.scale().detach() for layer in layers]
    assert min(scale.min() for scale in before) < 2e-3  # less than the rate
    taught(stepped, x, 1)
    moved = [(layer.scale().detach() / scale - 1).abs().max() for layer, scale in zip(layers, before, strict=True)]
    assert 1e-3 < max(moved) < 4e-3


def test_what_is_on_a_grid_already_stays_there():
    photos = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    rounded = round_by_photos(trained_looking(), Pack(bits=4), [photos], torch.device("cpu"))
    again = trained_codes(with_steps(rounded, Pack(bits=4)))
    assert all((again[name].codes == stored.codes).all() for name, stored in trained_codes(rounded).items())


def test_a_state_that_was_saved_goes_on_from_there():
    stepped, x = with_steps(trained_looking(), Pack(bits=4)), torch.randn(8, 3, 64, 64)
    taught(stepped, x)
    again = with_steps(trained_looking(), Pack(bits=4))
    again.load_state_dict(stepped.state_dict())
    assert torch.equal(again(x), stepped(x))


def test_what_was_trained_before_steps_were_factors_is_the_same_network():
    stepped, x = with_steps(trained_looking(), Pack(bits=4)), torch.randn(8, 3, 64, 64)
    before = {name: tensor for name, tensor in stepped.state_dict().items() if not name.endswith(".chosen")}
    before |= {f"{name}.step": layer.chosen for name, layer in stepped.named_modules() if isinstance(layer, Stepped)}
    again = with_steps(fold(build_student("record", (), 5).eval()), Pack(bits=4))
    again.load_state_dict(before)
    assert torch.equal(again(x), stepped(x))


def test_weights_below_float16_keep_their_steps():
    layer, x = nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(8, 6)
    with torch.no_grad():
        layer[0].weight *= 1e-9
    answer = with_steps(layer, Pack(bits=8))(x)
    assert (answer - layer(x)).abs().max() < 0.02 * layer(x).abs().max()


@pytest.mark.parametrize("step", [0.0, -0.01, 1e-9])
def test_a_step_that_is_trained_to_nothing_gives_numbers_and_may_grow_again(step):
    layer, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(8, 6)
    model = with_steps(layer, Pack(bits=3))
    with torch.no_grad():
        model[0].step[1] = step
    model(x).square().mean().backward()
    assert torch.isfinite(model(x)).all()
    assert torch.isfinite(model[0].weight.grad).all()
    assert torch.isfinite(model[0].step.grad).all()
    assert model[0].step.grad[1] != 0
    assert np.isfinite(restore(model[0].codes())).all()
