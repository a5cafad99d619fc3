import shutil

import pytest
import torch
from torch import nn

from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.stages import Step, steps_of
from kit.errors import KitError, Suspended
from kit.models.blocks import Select
from kit.models.students import TABLE, FrozenStem, build_student, count_parameters, widths_of
from kit.session import open_session
from kit.stages.packing import packed_size
from kit.stages.photos import read_photos
from kit.stages.prune import bytes_allowed, prune, target_of, with_new_weights
from kit.train.budget import Budget

WHOLE = count_parameters(build_student("record", (), 6))


def begun(drawn, out, log, *prunes):
    """(session, material, student) of a run whose distillation is over."""
    config = override(recipe("sample").tiny(), [f"prune.{assignment}" for assignment in prunes])
    session = open_session(config, out, Budget(None), log)
    material = read_photos(session, drawn, out / "cache")
    torch.manual_seed(0)
    student = build_student("record", (), 6)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.1, 2)
    best = {"weights": student.state_dict(), "accuracy": 0.1, "epoch": 1}
    session.checkpoints("distil").finish(1, {"widths": widths_of(student), "best": best})
    return session, material, student


@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_photo_that_is_moved_to_another_class_is_another_photo(drawn, tmp_path, log, split):
    """Between two class folders it keeps its name, its bytes, and its place in the order."""
    shutil.copytree(drawn / "evaluation", tmp_path / "photos" / "evaluation")
    for photo in [*(drawn / "training").iterdir(), *(drawn / "validation").iterdir()]:
        place = tmp_path / "photos" / photo.parent.name / f"class{photo.name[0]}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    session, *_ = begun(tmp_path / "photos", tmp_path / "out", log)
    (tmp_path / "photos" / split / "class0" / "0_9.jpg").rename(tmp_path / "photos" / split / "class1" / "0_9.jpg")
    later = open_session(session.config, tmp_path / "out", Budget(None), log)
    with pytest.raises(KitError, match=r"photos below .* are not those"):
        read_photos(later, tmp_path / "photos", tmp_path / "out" / "cache")


@pytest.mark.parametrize("restart", ["false", "true"])
def test_steps_narrow_what_the_step_before_left_or_the_distilled_student_again(drawn, tmp_path, log, restart):
    session, material, student = begun(drawn, tmp_path, log, "steps=2", f"restart={restart}", "keep=0.25")
    first = prune(session, material, student, steps_of(session.config.prune)[0])
    assert 0.47 * WHOLE < count_parameters(first) <= 0.5 * WHOLE
    nn.init.constant_(first.fc.bias, 7.0)  # as if fine-tuned
    second = prune(session, material, first, steps_of(session.config.prune)[1])
    assert 0.22 * WHOLE < count_parameters(second) <= 0.25 * WHOLE
    assert bool((second.fc.bias == 7).all()) == (restart == "false")


def test_what_pruning_came_to_is_known_to_a_session_whose_account_was_lost(drawn, tmp_path, log):
    session, material, student = begun(drawn, tmp_path, log, "keep=0.5")
    (step,) = steps_of(session.config.prune)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.constant_(norm.running_mean, 99)
        norm.num_batches_tracked += 1
    slimmer = prune(session, material, student, step)
    assert all((m.running_mean < 9).all() for m in slimmer.modules() if isinstance(m, nn.BatchNorm2d))  # they are measured anew
    told = {"accuracy", "parameters", "widths"}
    before = {name: session.record["stages"]["prune"][name] for name in told}
    (tmp_path / "run.json").unlink()
    later = open_session(session.config, tmp_path, Budget(None), log)
    prune(later, read_photos(later, drawn, tmp_path / "cache"), student, step)
    assert {name: later.record["stages"]["prune"][name] for name in told} == before


def test_pruning_is_not_begun_without_time_for_it_and_for_the_hand_in_after_it(drawn, tmp_path, log):
    session, material, student = begun(drawn, tmp_path, log)
    session.budget = Budget(100, started=0, clock=lambda: 0)
    session.budget.longest |= {"prune": 60, "hand in": 50}
    with pytest.raises(Suspended, match="stopped before pruning"):
        prune(session, material, student, Step())


def test_every_target_that_is_given_counts_and_keep_only_without(drawn, tmp_path, log):
    session, material, student = begun(drawn, tmp_path, log, "parameters=30000", "macs=500000", "bytes=20000", "keep=0.01")
    target = target_of(session.config, student, material.dataset.classes)
    assert (target.parameters, target.macs, target.bytes) == (30_000, 500_000, 19_600)  # with room for other codes after fine-tuning
    halfway = target_of(session.config, student, material.dataset.classes, 0.5)
    assert halfway.parameters == int((WHOLE * 30_000) ** 0.5)
    assert halfway.macs > 500_000
    limited = override(session.config, ["limit=20000params"])
    assert target_of(limited, student, material.dataset.classes).parameters == 20_000
    slimmer = prune(session, material, student, Step())
    assert count_parameters(slimmer) <= 30_000


def test_a_limit_of_bytes_is_kept_whatever_else_is_asked_for(drawn, tmp_path, log):
    session, material, student = begun(drawn, tmp_path, log, "keep=0.9")
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.normal_(norm.bias)  # a new one's are zeros, which take no bytes
    session.config = override(session.config, ["limit=30kB"])
    slimmer = prune(session, material, student, Step())
    assert 28_000 < packed_size(session.config, slimmer, material.dataset.classes) <= 29_400
    session.config = override(session.config, ["limit=90kB"])
    assert bytes_allowed(session.config) == 88_200


@pytest.mark.parametrize("name", ["boss", "preresnet8x4"])
def test_the_control_has_new_weights_but_for_what_never_trains(name):
    slimmer = build_student(name, tuple(width // 2 for width in TABLE[name].widths), 6)
    for select in (m for m in slimmer.modules() if isinstance(m, Select)):
        select.index.copy_(torch.randperm(select.total)[: select.kept].sort().values)
    fresh = with_new_weights(slimmer, name, 6, seed=3)
    for new, old in zip(fresh.modules(), slimmer.modules(), strict=True):
        if isinstance(new, (FrozenStem, Select)):
            assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))
    assert not torch.equal(fresh.fc.weight, slimmer.fc.weight)
    assert torch.equal(fresh.fc.weight, with_new_weights(slimmer, name, 6, seed=3).fc.weight)
