import itertools

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import Suspended
from kit.models.look import hooked
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.session import open_session
from kit.stages.photos import read_photos
from kit.stages.rehearsal import rehearse, rehearse_hand_in, step_once
from kit.train.budget import Budget
from kit.world import World


def reserved(drawn, out, log, *assignments):
    """Seconds, by a clock that goes on by one whenever it is looked at: packing takes one, and so do the looks at 60 photos."""
    config = override(recipe("sample").tiny(), ["predict.crops=5", "predict.flip=true", *assignments])
    session = open_session(config, out, Budget(None), log)
    material = read_photos(session, drawn, out / "cache")
    session.budget = Budget(None, started=0, clock=itertools.count().__next__)
    torch.manual_seed(0)
    return rehearse_hand_in(session, material, build_student("record", (), 6))


def test_time_is_kept_for_every_student_that_is_packed_and_compared(drawn, tmp_path, log):
    alone = 1 + (10 * (60 + 24) + 2 * 60) / 60
    assert reserved(drawn, tmp_path / "one", log) == pytest.approx(alone)
    assert reserved(drawn, tmp_path / "two", log, "quantize.train_epochs=1") == pytest.approx(alone + 2 * (1 + 10))
    assert reserved(drawn, tmp_path / "three", log, "quantize.train_epochs=1", "lowrank={}") == pytest.approx(alone + 3 * (1 + 10))


def test_once_there_is_a_student_no_rehearsal_eats_the_time_that_is_kept_to_hand_it_in(drawn, tmp_path, log):
    """In the first session, too, which had nothing to hand in when it began."""
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    session.budget = Budget(100, started=0, clock=lambda: 0)
    session.budget.longest |= {"hand in": 50, "rehearsal": 40}
    student = build_student("record", (), 6)
    with pytest.raises(Suspended, match="before the rehearsal of the hand-in"):
        rehearse(session, material, "finetune", student, student)
    session.config = override(session.config, ["prune=null"])
    rehearse(session, material, "distil", student, student)


def test_the_step_that_is_rehearsed_has_as_many_photos_as_each_of_several_processes_will_have(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student, session.world, seen = build_student("record", (), 6), World(0, 2), []
    teacher = build_teacher("torchvision/resnet18", 6).eval()
    with session.world.leading(), hooked([teacher.register_forward_hook(lambda module, args, answer: seen.append(len(args[0])))]):
        step_once(session, material, student, teacher)
    assert max(seen) == session.config.train.batch_size // 2  # the shapes of maps are learnt from one photo


def test_until_it_is_pruned_the_time_of_the_whole_student_is_kept(drawn, tmp_path, log):
    """By a clock that goes on by a layer's weights whenever one is asked, so that a smaller student is a faster one."""
    session = open_session(override(recipe("sample").tiny(), ["prune.keep=0.2"]), tmp_path, Budget(None), log)
    material, asked = read_photos(session, drawn, tmp_path / "cache"), [0]

    def work(module, inputs, output):
        asked[0] += sum(p.numel() for p in module.parameters(recurse=False))

    session.budget = Budget(None, started=0, clock=lambda: asked[0])
    student, teacher = build_student("record", (), 6).eval(), build_teacher("torchvision/resnet18", 6).eval()
    with hooked([register_module_forward_hook(work)]):
        whole = rehearse_hand_in(session, material, student)
        began = asked[0]
        rehearse(session, material, "distil", student, teacher)
        assert session.budget.longest["hand in"] == whole > 0
        assert session.budget.spent.keys() == {"rehearsal", "prune"}
        assert session.budget.spent.total() == asked[0] - began  # what the page adds up: no second is in both
        rehearse(session, material, "finetune", build_student("record", (8, 8, 8, 8, 8, 8, 8), 6), teacher)
        assert session.budget.longest["hand in"] == whole
        session.config, session.budget.longest["hand in"] = override(session.config, ["limit=30000params"]), 0
        rehearse(session, material, "distil", student, teacher)
        assert session.budget.longest["hand in"] > session.budget.longest["prune"] > 0  # for that a copy is pruned first
