import pytest
import torch
from torch import nn

from kit.compress.lsq import with_steps
from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.models.students import build_student, count_parameters, widths_of
from kit.session import open_session
from kit.stages.packing import packed_size
from kit.stages.photos import read_photos
from kit.stages.provisional import SoFar, best_of, hand_in_best_so_far, so_far
from kit.stages.student import factorised
from kit.train.budget import Budget


def test_a_provisional_student_keeps_a_limit_of_bytes_by_the_pruning_that_its_plan_has(drawn, tmp_path, log, capsys):
    config = override(recipe("sample").tiny(), ["limit=30kB", "prune.keep=0.5"])
    session = open_session(config, tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    torch.manual_seed(0)
    student = build_student("record", (), 6)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.normal_(norm.bias)  # a new one's are zeros, which take no bytes
    wide = SoFar("", 0.5, student.state_dict())
    slimmer = best_of(session, material, [wide])[0]["training"]
    assert 28_000 < packed_size(config, slimmer, material.dataset.classes) <= 30_000
    assert "a copy was pruned to" in capsys.readouterr().out
    session.config = override(config, ["limit=90kB"])
    assert widths_of(best_of(session, material, [wide])[0]["training"]) == widths_of(student)
    assert "a copy was" not in capsys.readouterr().out


def test_a_copy_that_is_pruned_for_now_keeps_its_weights_where_the_plan_begins_with_new_ones(drawn, tmp_path, log):
    session = open_session(override(recipe("sample").tiny(), ["limit=30000params", "prune.scratch=true"]), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student = build_student("record", (), 6)
    nn.init.constant_(student.fc.bias, 7)
    slimmer = best_of(session, material, [SoFar("", 0.5, student.state_dict())])[0]["training"]
    assert count_parameters(slimmer) <= 30_000
    assert (slimmer.fc.bias == 7).all()


def test_a_plan_that_prunes_before_it_thins_hands_in_a_pruned_copy_until_then(drawn, tmp_path, log):
    """Of the whole student more are left at rank one than the limit allows."""
    config = override(recipe("sample").tiny(), ["limit=5000params", "prune.keep=0.15", "lowrank={}"])
    session = open_session(config, tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    whole = SoFar("", 0.5, build_student("record", (), 6).state_dict())
    assert count_parameters(best_of(session, material, [whole])[0]["training"]) <= 5_000


def test_thin_layers_that_only_training_on_the_grid_has_trained_are_handed_in(drawn, tmp_path, log):
    config = override(recipe("sample").tiny(), ["prune=null", 'lowrank={"rank": 8, "train_epochs": 0}', "quantize.train_epochs=5"])
    session = open_session(config, tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student = build_student("record", (), 6).eval()
    weights = with_steps(factorised(student, config), config.pack).state_dict()
    session.checkpoints("qat").save(1, {"step": 1, "best": {"accuracy": 0.5, "weights": weights}})
    students, _ = best_of(session, material, [SoFar("", 0.5, student.state_dict())])
    assert list(students) == ["training", "lowrank", "qat"]
    assert all(torch.equal(students["qat"].state_dict()[name], tensor) for name, tensor in weights.items())


def test_thin_layers_that_were_trained_are_handed_in_of_a_student_that_is_over_the_limit_without_them(drawn, tmp_path, log):
    config = override(recipe("sample").tiny(), ["prune=null", "limit=30000params", 'lowrank={"rank": 4}'])
    session = open_session(config, tmp_path, Budget(None), log)
    material, student = read_photos(session, drawn, tmp_path / "cache"), build_student("record", (), 6).eval()
    weights = {name: tensor + 1 for name, tensor in factorised(student, config).state_dict().items()}
    session.checkpoints("lowrank").save(1, {"step": 1, "best": {"accuracy": 0.5, "weights": weights}})
    students, file = best_of(session, material, [SoFar("distilled", 0.5, student.state_dict())])
    assert (list(students), file) == (["lowrank"], "distilled")
    assert all(torch.equal(students["lowrank"].state_dict()[name], tensor) for name, tensor in weights.items())


def test_of_the_students_that_keep_the_limit_the_best_is_handed_in(drawn, tmp_path, log):
    session = open_session(override(recipe("sample").tiny(), ["limit=30000params"]), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    narrow, wide = (build_student("record", widths, 6).state_dict() for widths in ((8,) * 7, ()))
    found = [SoFar("latest", 0.3, narrow), SoFar("best", 0.4, narrow), SoFar("wide", 0.9, wide)]
    assert best_of(session, material, found)[1] == "best"


def test_a_stage_counts_from_its_first_step_on_and_by_its_result_once_it_is_over(tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    distil, finetune = (session.checkpoints(stage) for stage in ("distil", "finetune"))
    state = lambda step, accuracy: {"step": step, "best": {"accuracy": accuracy, "weights": {"of": torch.tensor(step)}}}  # noqa: E731
    distil.save(0, state(0, -1.0))
    assert so_far(session, "distil") is None
    distil.save(5, state(5, 0.2))
    whole, half = distil.finish(6, state(6, 0.3)), finetune.save(1, state(1, 0.1))
    found = [so_far(session, stage) for stage in ("finetune", "distil")]
    assert [(each.file, each.accuracy) for each in found] == [(half.name, 0.1), (whole.name, 0.3)]


def test_nothing_is_handed_in_by_a_session_whose_time_for_it_is_used_up(drawn, tmp_path, log, capsys):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material, student = read_photos(session, drawn, tmp_path / "cache"), build_student("record", (), 6)
    session.checkpoints("distil").save(1, {"step": 1, "best": {"accuracy": 0.5, "weights": student.state_dict()}})
    session.budget, session.suspended = Budget(100, started=0, clock=lambda: 60), "the budget of 100 s leaves 40 s"
    session.budget.longest["hand in"] = 50
    hand_in_best_so_far(session, material, None)
    assert "no submission yet: there was no time for one" in capsys.readouterr().out


def test_a_budget_that_is_over_at_once_speaks_of_an_earlier_session_only_where_there_was_one(tmp_path, log):
    for remedy in ("Run", "What an earlier session left is untouched: run"):
        session = open_session(recipe("sample").tiny(), tmp_path, Budget(9), log)
        session.suspended = "the budget of 9 s leaves 0 s"
        with pytest.raises(KitError, match=f"^The budget of 9 s leaves 0 s. {remedy} the same command with a larger --budget.$"):
            hand_in_best_so_far(session, None, None)
        session.remember("photos", "0123", "the photos")
        session.checkpoints("distil").save(1, {})
