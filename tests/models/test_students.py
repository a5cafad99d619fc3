import pytest
import torch

from kit.config.recipes import RECIPES, recipe
from kit.errors import KitError
from kit.models.students import STUDENTS, FrozenStem, build_student, count_parameters, widths_of
from kit.models.weights import read_weights


@pytest.mark.parametrize("name", STUDENTS)
def test_the_table_holds_the_exact_parameter_counts(name):
    student = build_student(name, (), 11)
    assert count_parameters(student) == STUDENTS[name].parameters
    assert widths_of(student) == STUDENTS[name].widths


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_rebuilt_from_its_widths(name):
    widths = tuple(w // 2 for w in STUDENTS[name].widths)
    student = build_student(name, widths, 7)
    assert widths_of(student) == widths
    assert student(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["hw13", "hw7", "record"])
def test_first_weights_are_drawn_from_the_input_to_the_output(name):
    """Runs of other versions began with the same ones."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(3, STUDENTS[name].widths[0], 3, bias=name != "record").weight
    torch.manual_seed(0)
    assert torch.equal(next(build_student(name, (), 11).parameters()), first)


def test_published_counts_are_met():
    counts = {name: spec.parameters for name, spec in STUDENTS.items()}
    assert (counts["hw13"], counts["boss"], counts["hw7"]) == (59_723, 99_891, 256_779)
    assert counts["record"] <= 60_000


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_names_a_student_and_stages_that_it_has(name):
    config = recipe(name)
    modules = dict(build_student(config.student.name, (), 11).named_modules())
    assert all(term.student in modules for term in config.distill if term.loss == "hint")


def test_the_frozen_stem_never_moves():
    """Neither its weights nor its batch norm's statistics, and it counts as parameters all the same."""
    student = build_student("boss", (), 11).train()
    stem = next(m for m in student.modules() if isinstance(m, FrozenStem))
    before = {name: tensor.clone() for name, tensor in stem.state_dict().items()}
    student(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in stem.state_dict().items())
    assert all(p.grad is None for p in stem.parameters())


def test_an_unknown_student_or_a_wrong_number_of_widths_is_refused():
    with pytest.raises(KitError, match="Nearest: hw13"):
        build_student("hw31", (), 11)
    with pytest.raises(KitError, match="has 4 widths, 2 are given"):
        build_student("hw13", (4, 16), 11)


def test_hw7s_real_checkpoint_fits_the_student_by_name(real):
    student = build_student("hw7", (), 11)
    student.load_state_dict(read_weights(real / "hw7" / "student_custom_small.bin"))
    assert len(student.state_dict()) == 72
