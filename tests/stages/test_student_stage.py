import json

import pytest

from kit.compress.lowrank import ranks_in
from kit.config.override import override
from kit.config.recipes import recipe
from kit.models.students import build_student, count_parameters
from kit.stages.student import factorised


@pytest.mark.parametrize("how", [{"rank": 6}, {"energy": 0.5}, {"parameters": 30_000}])
def test_layers_become_as_thin_as_the_recipe_says(how):
    config = override(recipe("record"), ["lowrank=" + json.dumps(how)])
    student = build_student(config.student.name, (), 11).eval()
    thin = factorised(student, config)
    ranks = [rank for each in ranks_in(thin).values() for rank in each]
    assert count_parameters(thin) <= how.get("parameters", count_parameters(student) - 1)
    assert max(ranks) == 6 if "rank" in how else len(set(ranks)) > 1


def test_a_kept_classifier_stays_whole_wherever_the_student_comes_from():
    kept = '[{"loss":"simkd","student":"blocks.5","teacher":"layer4"}]'
    config = override(recipe("record"), ['lowrank={"rank":6}', f"distill={kept}"])
    ranks = ranks_in(factorised(build_student(config.student.name, (), 11), config))
    assert ranks
    assert "fc" not in ranks
