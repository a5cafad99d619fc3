"""docs/methods.md says what the code does: every term is in it, and every example is a term."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from kit.config.override import override
from kit.config.ramps import RAMPS
from kit.config.recipes import recipe
from kit.config.terms import Term
from kit.distill.terms import OF_LOGITS, OF_MAPS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"`(\{.*?\})`", DOCUMENT)


def test_every_term_has_a_loss_and_is_documented_with_an_example():
    terms = get_args(get_args(Term)[0])
    assert set(terms) == OF_LOGITS.keys() | OF_MAPS.keys()
    assert {term.model_fields["loss"].default for term in terms} == {json.loads(example)["loss"] for example in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_documented_example_is_taken_as_it_is_written(example):
    (term,) = override(recipe("record"), [f"distill=[{example}]"]).distill
    assert json.loads(example).items() <= term.model_dump(mode="json").items()


def test_every_ramp_is_documented():
    assert [name for name in RAMPS if f"`{name}`" not in DOCUMENT] == []
