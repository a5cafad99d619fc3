import os
from pathlib import Path

import pytest
import torch

from kit.distill.align import LOGITS
from kit.distill.replay import DIGEST, Fixed, Replay

SHAPES = {LOGITS: (4, 3), "layer1": (4, 3, 2, 1)}
ROW = DIGEST + 2 * (12 + 24)
PLAN = 10  # steps


class Teacher:
    """Answers by what it sees, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images):
        self.asked += 1
        return {"layer1": images[:, :, ::8, :1] / 3, LOGITS: images.mean((2, 3)) * 1.000123}


def batches(step):
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step)), torch.zeros(4)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "teacher.logits"


def play(file, log, steps, stored="float16", views=batches):
    """The answers of these steps, and how many were asked for."""
    replay, teacher = Replay(file, SHAPES, stored, PLAN, log), Teacher()
    draw = replay.drawn(views)
    seen = [replay(draw(step)[0], teacher) for step in steps]
    replay.close()
    assert (replay.replayed, replay.computed) == (len(seen) - teacher.asked, teacher.asked)
    return seen, teacher.asked


def equal(a, b):
    return all(torch.equal(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in SHAPES)


def rounded(seen, stored="float16"):
    return {name: value.to(getattr(torch, stored)).float() for name, value in seen.items()}


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_what_is_replayed_is_what_was_computed_and_no_teacher_is_asked(file, log, stored):
    first, asked = play(file, log, range(5), stored)
    again, asked_again = play(file, log, range(5), stored)
    assert (asked, asked_again) == (5, 0)
    assert equal(first, again)
    exact = [Teacher()(batches(step)[0]) for step in range(5)]
    assert equal(first, [rounded(x, stored) for x in exact])
    assert equal(first, exact) == (stored == "float32")


def test_a_run_that_goes_on_in_the_middle_computes_what_is_not_there_yet(file, log):
    play(file, log, range(3, 5))
    assert play(file, log, range(6))[1] == 4


@pytest.mark.parametrize("kept", [0, 1, DIGEST - 1, DIGEST, DIGEST + 5])
def test_a_row_that_was_cut_short_at_any_byte_is_computed_again(file, log, kept):
    whole, _ = play(file, log, range(3))
    os.truncate(file, 2 * ROW + kept)
    again, asked = play(file, log, range(3))
    assert asked == 1
    assert equal(again, whole)


def test_a_flipped_bit_anywhere_is_noticed(file, log):
    whole, _ = play(file, log, range(2))
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        again, asked = play(file, log, range(2))
        assert asked == 1
        assert equal(again, whole)


def test_a_row_of_another_step_or_of_other_views_is_not_taken(file, log):
    play(file, log, range(2))
    content = file.read_bytes()
    file.write_bytes(content[ROW:] + content[:ROW])
    assert play(file, log, range(2))[1] == 2
    darker = lambda step: (batches(step)[0] * 0.99, None)  # noqa: E731
    seen, asked = play(file, log, range(2), views=darker)
    assert asked == 2
    assert equal(seen, [rounded(Teacher()(darker(step)[0])) for step in range(2)])


def test_fixed_logits_are_those_of_the_photos_in_the_batch_that_was_drawn_last():
    logits = torch.randn(9, 3)
    fixed = Fixed(logits, lambda step: torch.tensor([step, 2 * step]))
    images, _ = fixed.drawn(batches)(3)
    assert torch.equal(fixed(images, Teacher())[LOGITS], logits[[3, 6]])


def test_a_disk_that_takes_no_more_costs_only_the_keeping():
    said = []
    seen, asked = play(Path("/dev/full"), said.append, range(3))
    assert asked == 3
    assert len(said) == 1
    assert "No space left" in said[0]
    assert equal(seen, [rounded(Teacher()(batches(step)[0])) for step in range(3)])


def test_nothing_is_kept_where_the_disk_has_no_room_for_the_plan_and_the_answers_stay_rounded(file):
    said = []
    replay = Replay(file, SHAPES, "float16", 10**15, said.append)
    seen = replay(replay.drawn(batches)(0)[0], Teacher())
    replay.close()
    assert "are not kept" in said[0]
    assert file.stat().st_size == 0
    assert equal([seen], [rounded(Teacher()(batches(0)[0]))])
