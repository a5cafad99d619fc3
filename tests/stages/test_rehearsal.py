import itertools

import pytest
import torch

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import Suspended
from kit.models.students import build_student
from kit.session import open_session
from kit.stages.photos import read_photos
from kit.stages.rehearsal import rehearse, rehearse_hand_in
from kit.train.budget import Budget


def reserved(drawn, out, log, *assignments):
    """Seconds, by a clock that goes on by one whenever it is looked at: packing takes one, and so do the looks at 60 photos."""
    config = override(recipe("sample").tiny(), ["predict.crops=5", "predict.flip=true", *assignments])
    session = open_session(config, out, Budget(None), log)
    material = read_photos(session, drawn, out / "cache")
    session.budget = Budget(None, started=0, clock=itertools.count().__next__)
    torch.manual_seed(0)
    return rehearse_hand_in(session, material, "distil evaluate", build_student("record", (), 6))


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
