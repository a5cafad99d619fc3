import json

import pytest
import timm
import torch

from kit.compress.lowrank import parameters_at, ranks_in
from kit.config.override import override
from kit.config.recipes import recipe
from kit.models.look import classifier
from kit.models.students import build_student, count_parameters
from kit.models.teacher import build_teacher
from kit.models.widths import widths_for
from kit.session import open_session
from kit.stages.begin import check_beginning
from kit.stages.photos import read_photos
from kit.stages.student import distil, factorised, later_plans, learn
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


def test_later_trainings_have_a_rate_of_their_own_and_neither_warm_up_nor_patience():
    settings = ['prune={"finetune_epochs": 3, "finetune_lr": 1e-3}', 'lowrank={"train_epochs": 4, "train_lr": 2e-3}', "train.patience=9"]
    config = override(recipe("record"), [*settings, "quantize.train_epochs=5", "quantize.train_lr=3e-3", "train.warmup_epochs=2"])
    plans = {stage: (plan.epochs, plan.lr, plan.warmup_epochs, plan.patience) for stage, plan in later_plans(config).items()}
    assert plans == {"finetune": (3, 1e-3, 0, None), "lowrank": (4, 2e-3, 0, None), "qat": (5, 3e-3, 0, None)}
    assert later_plans(override(config, ["prune.scratch=true"]))["finetune"].warmup_epochs == 2


def test_what_a_stage_draws_depends_on_nothing_that_was_drawn_before_it(drawn, tmp_path, log):
    """A session that goes on has drawn other numbers than one that came so far. Its end is rehearsed in either."""
    hint = 'distill=[{"loss": "hint", "student": "blocks.1", "teacher": "layer2"}]'
    config = override(recipe("sample").tiny(), [hint, "prune=null", "train.epochs=1", "train.batch_size=60", "pack.calibration=0"])
    results = []
    for seed in (1, 2):
        session = open_session(config, tmp_path / str(seed), Budget(None), log)
        material = read_photos(session, drawn, tmp_path / "cache")
        torch.manual_seed(0)
        student, teacher = build_student("record", (), 6), build_teacher("torchvision/resnet18", 6).eval()
        torch.manual_seed(seed)
        learn(session, material, "distil", student, [teacher], config.train, 0.0)
        results += [saved.path.name for saved in session.checkpoints("distil").files() if saved.done]
        assert session.budget.times["rehearsal"] == 1
    assert results == results[:1] * 2


@pytest.mark.parametrize("fit", ["false", "true"])
def test_a_run_begins_with_weights_that_have_timms_own_names(drawn, tmp_path, log, fit):
    """Nothing is claimed of them where the validation photos are trained on."""
    settings = ["student.name=timm/lcnet_035", "limit=9999999params", "prune=null", f"train.final_fit={fit}"]
    config = override(recipe("sample").tiny(), settings)
    session = open_session(config, tmp_path, Budget(None), log)
    material, theirs = read_photos(session, drawn, tmp_path / "cache"), timm.create_model("lcnet_035", num_classes=6)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    check_beginning(tmp_path / "theirs.pt", config)
    student = distil(session, material, [], tmp_path / "theirs.pt")
    assert torch.equal(classifier(student).weight, theirs.classifier.weight)
    assert (session.record["stages"]["distil"]["accuracy"] is None) == (fit == "true")
