import os
from pathlib import Path

import pytest
import torch

from kit.distill.replay import DIGEST, Replay

SHAPE = (4, 3)  # photos, classes


class Teacher:
    """Answers by what it sees, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images):
        self.asked += 1
        return images.mean((2, 3)) * 1.000123


def batches(step):
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step)), torch.zeros(4)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "teacher.logits"


def play(file, log, steps, stored="float16", views=batches):
    """The logits of these steps, and how many were asked for."""
    replay, teacher = Replay(file, SHAPE, stored, log), Teacher()
    draw = replay.drawn(views)
    logits = [replay(draw(step)[0], teacher) for step in steps]
    replay.close()
    assert (replay.replayed, replay.computed) == (len(logits) - teacher.asked, teacher.asked)
    return logits, teacher.asked


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("stored", ["float16", "float32"])
def test_what_is_replayed_is_what_was_computed_and_no_teacher_is_asked(file, log, stored):
    first, asked = play(file, log, range(5), stored)
    again, asked_again = play(file, log, range(5), stored)
    assert (asked, asked_again) == (5, 0)
    assert equal(first, again)
    exact = [Teacher()(batches(step)[0]) for step in range(5)]
    assert equal(first, [x.to(getattr(torch, stored)).float() for x in exact])
    assert equal(first, exact) == (stored == "float32")


def test_a_run_that_goes_on_in_the_middle_computes_what_is_not_there_yet(file, log):
    play(file, log, range(3, 5))
    assert play(file, log, range(6))[1] == 4


@pytest.mark.parametrize("kept", [0, 1, DIGEST - 1, DIGEST, DIGEST + 5])
def test_a_row_that_was_cut_short_at_any_byte_is_computed_again(file, log, kept):
    whole, _ = play(file, log, range(3))
    row = DIGEST + 2 * 12
    os.truncate(file, 2 * row + kept)
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
    row = DIGEST + 2 * 12
    content = file.read_bytes()
    file.write_bytes(content[row:] + content[:row])
    assert play(file, log, range(2))[1] == 2
    darker = lambda step: (batches(step)[0] * 0.99, None)  # noqa: E731
    logits, asked = play(file, log, range(2), views=darker)
    assert asked == 2
    assert equal(logits, [x.half().float() for x in (Teacher()(darker(step)[0]) for step in range(2))])


def test_a_disk_that_takes_no_more_costs_only_the_keeping():
    said = []
    logits, asked = play(Path("/dev/full"), said.append, range(3))
    assert asked == 3
    assert len(said) == 1
    assert "No space left" in said[0]
    assert equal(logits, [Teacher()(batches(step)[0]).half().float() for step in range(3)])
