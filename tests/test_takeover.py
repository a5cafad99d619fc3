"""An earlier output, attached wherever: the furthest that is whole wins, a stranger's is refused or passed over."""

import hashlib
import json
from pathlib import Path

import pytest

from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Config
from kit.errors import KitError
from kit.files import StorageError
from kit.takeover import take_over
from kit.train.checkpoint import FORMAT, Checkpoints, saved_in, steps_done, to_bytes


def leave_output(folder: Path, config: Config, step: int, log) -> Path:
    """What a session leaves; returns its newest checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder, "distil", {}, config.model_dump(mode="json"), log)
    checkpoints.save(max(0, step - 1), {})
    newest = checkpoints.save(step, {})
    (folder / "run.json").write_text(json.dumps({"recipe": config.recipe}))
    (folder / "__results__.html").write_text("Kaggle's own")
    return newest


def take(tmp_path, log, config=None):
    (tmp_path / "working").mkdir(exist_ok=True)
    return take_over(config or recipe("record"), [tmp_path / "input"], tmp_path / "working", log)


@pytest.mark.parametrize("mount", ["kit-record", "notebooks/someone/kit-record"])
def test_an_output_is_found_wherever_it_is_mounted(mount, tmp_path, log):
    place = tmp_path / "input" / mount
    leave_output(place, recipe("record"), 7, log)
    assert take(tmp_path, log) == place
    left = {path.relative_to(tmp_path / "working").as_posix() for path in (tmp_path / "working").rglob("*.*")}
    assert left == {"run.json", *(f"checkpoints/{saved.path.name}" for saved in saved_in(place))}


def test_the_furthest_of_several_outputs_is_taken_and_damaged_ones_count_for_what_is_whole(tmp_path, log):
    for name, step in (("a", 50), ("b", 70), ("c", 90)):
        newest = leave_output(tmp_path / "input" / name, recipe("record"), step, log)
    for saved in saved_in(newest.parents[1]):
        saved.path.write_bytes(b"cut")
    assert take(tmp_path, log) == tmp_path / "input" / "b"


def test_a_run_that_is_further_than_what_is_attached_is_left_as_it_is(tmp_path, log):
    leave_output(tmp_path / "input" / "earlier", recipe("record"), 10, log)
    leave_output(tmp_path / "input" / "same", recipe("record"), 20, log)
    leave_output(tmp_path / "working", recipe("record"), 20, log)
    assert take(tmp_path, log) is None
    leave_output(tmp_path / "input" / "later", recipe("record"), 30, log)
    assert take(tmp_path, log) == tmp_path / "input" / "later"
    assert steps_done(tmp_path / "working", log) == 30


def test_an_output_of_another_config_stops_the_session_before_it_costs_hours(tmp_path, log):
    leave_output(tmp_path / "input" / "kit-record", recipe("record"), 7, log)
    longer = override(recipe("record"), ["train.epochs=700"])
    with pytest.raises(KitError, match=r"train\.epochs: 600 → 700"):
        take(tmp_path, log, longer)
    assert list((tmp_path / "working").iterdir()) == []
    leave_output(tmp_path / "working", longer, 3, log)
    assert take(tmp_path, log, longer) is None  # a run that has begun goes on, whatever is attached


def test_a_folder_that_holds_another_run_is_not_overwritten(tmp_path, log):
    newest = leave_output(tmp_path / "working", recipe("record"), 7, log)
    longer = override(recipe("record"), ["train.epochs=700"])
    leave_output(tmp_path / "input" / "kit-record", longer, 90, log)
    with pytest.raises(KitError, match="holds a run that was begun otherwise"):
        take(tmp_path, log, longer)
    assert saved_in(tmp_path / "working")[-1].path == newest


def test_what_changes_no_weight_is_let_through(tmp_path, log):
    leave_output(tmp_path / "input" / "kit-record", recipe("record"), 7, log)
    assert take(tmp_path, log, override(recipe("record"), ["data.workers=3", "data.feed=stream", "teacher.expected_accuracy=0.9"]))


def test_other_recipes_and_strangers_files_are_passed_over(tmp_path, log):
    leave_output(tmp_path / "input" / "kit-boss", recipe("boss"), 7, log)
    strange = tmp_path / "input" / "strange" / "checkpoints"
    strange.mkdir(parents=True)
    (strange / "distil-000000007-0123456789abcdef.pt").write_text("[1]")
    (strange / "model.pt").write_bytes(b"weights")
    assert take(tmp_path, log) is None


def test_a_copy_that_breaks_off_leaves_no_checkpoint_to_go_on_from(tmp_path, log):
    leave_output(tmp_path / "input" / "kit-record", recipe("record"), 7, log)
    (tmp_path / "working" / "run.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"run\.json can't be written"):
        take(tmp_path, log)
    assert saved_in(tmp_path / "working") == []


@pytest.mark.parametrize(
    ("of_one", "why"), [("another kit", "written by another version of the kit"), ("nothing whole", "no checkpoint in it")]
)
def test_an_output_that_can_not_be_read_stops_the_session_before_it_begins_anew(of_one, why, tmp_path, log):
    place = tmp_path / "input" / "kit-record"
    for saved in saved_in(leave_output(place, recipe("record"), 7, log).parents[1]):
        content = to_bytes({"format": FORMAT + 1}) if of_one == "another kit" else b"cut"
        digest = hashlib.sha256(content).hexdigest()[:16] if of_one == "another kit" else saved.digest
        saved.path.unlink()
        saved.path.with_name(saved.path.name.replace(saved.digest, digest)).write_bytes(content)
    with pytest.raises(KitError, match=rf"kit-record is an output of 'record' that can't be resumed: .*{why}"):
        take(tmp_path, log)
    assert saved_in(tmp_path / "working") == []
    leave_output(tmp_path / "input" / "well", recipe("record"), 3, log)
    assert take(tmp_path, log) == tmp_path / "input" / "well"


def test_the_curves_of_earlier_sessions_come_along(tmp_path, log):
    leave_output(place := tmp_path / "input" / "kit-record", recipe("record"), 7, log)
    (events := place / "tensorboard" / "distil").mkdir(parents=True)
    (events / "events.out").write_bytes(b"curve")
    take(tmp_path, log)
    assert (tmp_path / "working" / "tensorboard" / "distil" / "events.out").read_bytes() == b"curve"
