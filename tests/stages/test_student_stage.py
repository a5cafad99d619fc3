import json

import pytest
import timm
import torch

from kit.compress.lowrank import parameters_at, ranks_in
from kit.config.override import override
from kit.config.recipes import recipe
from kit.models.look import classifier
from kit.models.students import build_student, count_parameters
from kit.models.widths import widths_for
from kit.session import open_session
from kit.stages.begin import check_beginning
from kit.stages.photos import read_photos
from kit.stages.student import distil, factorised
from kit.train.budget import Budget


@pytest.mark.parametrize("how", [{"rank": 6}, {"energy": 0.5}, {"parameters": 30_000}])
def test_layers_become_as_thin_as_the_recipe_says(how):
    config = override(recipe("record"), ["lowrank=" + json.dumps(how)])
    student = build_student(config.student.name, (), 11).eval()
    thin = factorised(student, config)
    ranks = [rank for each in ranks_in(thin).values() for rank in each]
    assert count_parameters(thin) <= how.get("parameters", count_parameters(student) - 1)
    assert max(ranks) == 6 if "rank" in how else len(set(ranks)) > 1


def test_thin_layers_keep_a_limit_with_the_norms_that_the_student_was_trained_with():
    """They are folded when it is packed, and count all the same."""
    config = override(recipe("record"), ["student.parameters=60900", "lowrank={}"])
    student = build_student(config.student.name, widths_for(config.student, 11), 11).eval()
    assert 60_000 < count_parameters(student) <= 60_900
    thin = factorised(student, config)
    assert parameters_at(student, ranks_in(thin)) <= 60_000
    assert count_parameters(thin) < parameters_at(student, ranks_in(thin))


def test_a_kept_classifier_stays_whole_wherever_the_student_comes_from():
    kept = '[{"loss":"simkd","student":"blocks.5","teacher":"layer4"}]'
    config = override(recipe("record"), ['lowrank={"rank":6}', f"distill={kept}"])
    ranks = ranks_in(factorised(build_student(config.student.name, (), 11), config))
    assert ranks
    assert "fc" not in ranks


def test_a_run_begins_with_weights_that_have_timms_own_names(drawn, tmp_path, log):
    config = override(recipe("sample").tiny(), ["student.name=timm/lcnet_035", "limit=9999999params", "prune=null"])
    session = open_session(config, tmp_path, Budget(None), log)
    material, theirs = read_photos(session, drawn, tmp_path / "cache"), timm.create_model("lcnet_035", num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    check_beginning(tmp_path / "theirs.pt", config)
    student = distil(session, material, [], tmp_path / "theirs.pt")
    assert torch.equal(classifier(student).weight, theirs.classifier.weight)
