import pytest

from kit.config.override import override
from kit.config.ramps import RAMPS, factor, is_off
from kit.config.recipes import recipe
from kit.config.terms import KD
from kit.errors import KitError


def test_named_ramps_are_what_they_say():
    at = lambda p: {name: round(factor(name, p), 4) for name in RAMPS}  # noqa: E731
    assert at(0) | {"cosine": 1} == {
        **dict.fromkeys(("constant", "1-p", "cosine", "first half"), 1),
        **dict.fromkeys(("p", "p^4", "p^2(1-p^2)", "second half", "warmup"), 0),
    }
    assert at(0.5) == {
        **{"constant": 1, "p": 0.5, "1-p": 0.5, "p^4": 0.0625, "p^2(1-p^2)": 0.1875},
        **{"cosine": 0.5, "first half": 0, "second half": 1, "warmup": 1},
    }


def test_points_are_joined_by_lines_and_two_at_one_place_are_a_jump():
    ramp = ((0.2, 1.0), (0.6, 3.0), (0.6, 0.0), (0.9, 0.5))
    assert [factor(ramp, p) for p in (0, 0.2, 0.4, 0.6, 0.75, 0.95)] == pytest.approx([1, 1, 2, 0, 0.25, 0.5])
    assert override(recipe("boss"), ["distill.0.ramp=[[0, 1], [1, 0]]"]).distill[0].ramp == ((0, 1), (1, 0))


def test_a_ramp_is_off_where_it_stays_at_zero():
    off = lambda p: {name for name in RAMPS if is_off(name, p)}  # noqa: E731
    assert (off(0), off(0.5)) == ({"second half"}, {"first half"})
    assert [is_off(((0.2, 0), (0.4, 1)), p) for p in (0, 0.1, 0.2, 0.3)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cosin", "Nearest: cosine"),
        ("[[0, 1], [0.5, NaN]]", "nan"),
        ("[[0, 1], [0.5, -1]]", "a number from 0 up"),
        ("[[0.5, 1], [0.2, 1]]", "rising"),
        ("[]", "at least one"),
    ],
)
def test_a_ramp_that_is_none_is_refused_with_its_name_and_the_remedy(value, words):
    with pytest.raises(KitError) as error:
        override(recipe("boss"), [f"distill.0.ramp={value}"])
    assert "distill.0" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(("wrong", "words"), [(lambda p: float("nan"), "is nan at p = 0,"), (lambda p: 1 / p, "no value at p = 0 ")])
def test_a_new_ramp_that_is_no_number_somewhere_is_refused_when_the_recipe_is_built(monkeypatch, wrong, words):
    monkeypatch.setitem(RAMPS, "mine", wrong)
    with pytest.raises(ValueError, match=f"'mine' .*{words}"):
        KD(ramp="mine")


def test_warmup_is_over_after_the_first_tenth():
    assert [factor("warmup", p) for p in (0.05, 0.1, 0.5)] == [0.5, 1, 1]
