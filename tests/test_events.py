"""TensorBoard reads what a run has learned."""

import pytest

from kit.events import Events


def test_tensorboard_reads_each_epoch_once_though_a_session_did_one_twice(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed; it is optional")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in ((1, 2, 3), (3, 4)):
        events = Events(tmp_path)
        for epoch in epochs:
            events.add("distil", {"epoch": epoch, "step": epoch * 10, "loss": 1 / epoch, "accuracy": epoch / 10})
    read = EventAccumulator(str(tmp_path / "tensorboard" / "distil"))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["accuracy", "loss"]
    assert [event.step for event in read.Scalars("accuracy")] == [1, 2, 3, 4]


def test_nothing_is_written_where_it_is_not_installed(tmp_path):
    events = Events(tmp_path)
    events.there = False
    events.add("distil", {"epoch": 1, "step": 10, "loss": 1.0, "accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []
