import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from kit.errors import KitError
from kit.train.checkpoint import Checkpoints, begun_in, saved_in, steps_done, to_bytes

IDENTITY = {"photos": "def"}
CONFIG = {"recipe": "boss", "train": {"lr": 0.1}, "data": {"workers": 2}}


def of(out, log, stage="distil", identity=IDENTITY, config=CONFIG):
    return Checkpoints(out, stage, identity, config, log)


@pytest.fixture
def checkpoints(tmp_path, log):
    return of(tmp_path, log)


def state(step):
    return {"step": step, "weights": torch.full((4,), float(step))}


def test_the_newest_of_two_generations_is_loaded(checkpoints):
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    assert checkpoints.load()["step"] == 30
    assert len(checkpoints.files()) == 2


def test_equal_states_give_equal_bytes_however_they_came_to_be(checkpoints):
    """Strings that are equal but not one object, tensors that are views or loaded: the pickle must not tell."""
    name = "".join(["wei", "ghts"])
    built = {"weights": {name: torch.arange(6.0).reshape(2, 3)}, "other": {"weights": torch.arange(12.0)[:6]}, "pair": (0.9, "weights")}
    checkpoints.save(10, built)
    assert to_bytes(checkpoints.load()) == to_bytes(built)
    assert checkpoints.save(10, checkpoints.load()).name == checkpoints.files()[-1].path.name
    assert len(checkpoints.files()) == 1


def damages(whole):
    """Cuts, a tail, and flips of single bits in every region of the file."""
    yield from (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\0", b"\0" * len(whole))
    for at in [*range(0, len(whole), max(1, len(whole) // 150)), len(whole) - 1]:
        yield bytes([*whole[:at], whole[at] ^ (1 << at % 8), *whole[at + 1 :]])


def test_a_flipped_bit_or_a_cut_anywhere_is_named_and_the_generation_before_is_used(checkpoints, capsys):
    checkpoints.save(10, state(10))
    newest = checkpoints.save(20, state(20))
    aside = newest.with_name(f"{newest.name}.damaged")
    for damaged in damages(newest.read_bytes()):
        newest.write_bytes(damaged)
        assert checkpoints.load()["step"] == 10
        assert f"{newest} is damaged" in capsys.readouterr().out.replace("\n", "")
        assert aside.read_bytes() == damaged
        aside.unlink()


def test_a_file_under_another_steps_name_is_not_taken_for_it(checkpoints, capsys):
    checkpoints.save(10, state(10))
    old = checkpoints.save(20, state(20))
    old.rename(old.with_name(old.name.replace("000000020", "000000090")))
    assert checkpoints.load()["step"] == 10
    assert "its name says otherwise" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["folder", "gone", "link"])
def test_what_can_not_be_read_is_passed_over(checkpoints, damage):
    checkpoints.save(10, state(10))
    newest = checkpoints.save(20, state(20))
    newest.unlink()
    if damage == "folder":
        newest.mkdir()
    if damage == "link":
        newest.symlink_to("nowhere")
    assert checkpoints.load()["step"] == 10


@pytest.mark.skipif(sys.platform != "linux", reason="has a file that no disk can read: /proc/self/mem, from its beginning")
def test_a_disk_that_fails_for_a_while_is_no_reason_to_begin_anew(checkpoints, tmp_path, log):
    saved = [checkpoints.save(step, state(step)) for step in (10, 20)]

    def fail(place):
        place.rename(place.with_suffix(".well"))
        place.symlink_to("/proc/self/mem")

    fail(saved[1])
    assert checkpoints.load()["step"] == steps_done(tmp_path, log) == 10
    fail(saved[0])
    for begin in (checkpoints.load, lambda: begun_in(tmp_path, CONFIG, log), lambda: steps_done(tmp_path, log)):
        with pytest.raises(KitError, match=r"can't be read \(Input/output error\).*Nothing is begun anew"):
            begin()
    for place in saved:
        place.with_suffix(".well").replace(place)
    assert checkpoints.load()["step"] == 20
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == [path.name for path in saved]


def test_after_a_damage_two_whole_generations_are_kept_again(checkpoints):
    checkpoints.save(10, state(10))
    newest = checkpoints.save(20, state(20))
    newest.write_bytes(b"")
    checkpoints.load()
    for step in (15, 18):
        checkpoints.save(step, state(step))
    assert [saved.step for saved in checkpoints.files()] == [15, 18]


def test_a_copy_without_folders_is_gone_on_with_after_it_has_written_one(checkpoints, tmp_path, log):
    """A data set of Kaggle's holds files alone."""
    saved = checkpoints.save(10, state(10))
    flat = saved.rename(tmp_path / saved.name)
    checkpoints.folder.rmdir()
    again = of(tmp_path, log)
    assert again.load()["step"] == 10
    again.save(20, state(20))
    assert steps_done(tmp_path, log) == 20
    again.save(30, state(30))
    assert not flat.exists()


def test_what_was_taken_back_is_not_the_newest_any_more(checkpoints):
    """A run that diverged goes back and saves an earlier step than there is."""
    for step in (10, 20):
        checkpoints.save(step, state(step))
    checkpoints.save(12, state(12))
    assert checkpoints.load()["step"] == 12


def test_a_run_that_went_back_has_two_generations_all_the_same(checkpoints, tmp_path, log):
    """From what was taken back it would come to the same place again."""
    for step in (100, 200):
        checkpoints.save(step, state(step))
    back = checkpoints.save(50, state(50))
    assert (checkpoints.load()["step"], steps_done(tmp_path, log), len(checkpoints.files())) == (50, 50, 2)
    content = back.read_bytes()
    back.write_bytes(b"")
    assert (checkpoints.load()["step"], steps_done(tmp_path, log)) == (200, 200)
    back.write_bytes(content)
    checkpoints.save(90, state(90))
    assert [saved.step for saved in checkpoints.files()] == [50, 90]


def test_a_result_is_told_from_a_half_done_stage(checkpoints):
    checkpoints.save(10, state(10))
    assert checkpoints.result() is None
    checkpoints.finish(12, state(12))
    assert (checkpoints.result()["step"], checkpoints.load()["step"]) == (12, 10)


def test_stages_do_not_see_each_other_and_a_runs_steps_add_up(checkpoints, tmp_path, log):
    checkpoints.save(10, state(10))
    assert of(tmp_path, log, "finetune").load() is None
    of(tmp_path, log, "teacher").finish(7, state(7))
    assert steps_done(tmp_path, log) == 17


def test_another_runs_checkpoint_is_refused_with_all_that_differs(checkpoints, tmp_path, log):
    checkpoints.save(10, state(10))
    with pytest.raises(KitError, match="photos: def → other"):
        of(tmp_path, log, identity={"photos": "other"}).load()
    with pytest.raises(KitError, match=r"train\.lr: 0\.1 → 0\.2"):
        of(tmp_path, log, config=CONFIG | {"train": {"lr": 0.2}}).load()
    assert of(tmp_path, log, config=CONFIG | {"data": {"workers": 9}}).load()["step"] == 10


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_disk_that_fills_up_while_saving_leaves_the_checkpoint_before(tmp_path):
    """RLIMIT_FSIZE stands in for the full disk, in a process of its own."""
    program = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from kit.console import Log\n"
        "from kit.files import StorageError\n"
        "from kit.train.checkpoint import Checkpoints\n"
        "checkpoints = Checkpoints(Path(sys.argv[1]), 'distil', {}, {}, Log())\n"
        "checkpoints.save(10, {'step': 10})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: checkpoints.save(20, {'step': 20, 'weights': torch.zeros(100_000)})\n"
        "except StorageError as error: print(error)\n"
        "assert checkpoints.load()['step'] == 10\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "distil-000000020" in done.stdout
    assert "File too large" in done.stdout
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_malicious_pickle_never_runs(checkpoints, tmp_path):
    """Even one that carries the right name for its bytes."""

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    content = pickle.dumps(Attack())
    (tmp_path / "checkpoints" / f"distil-000000099-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(KitError, match="no checkpoint of the kit"):
        checkpoints.load()
    assert not (tmp_path / "owned").exists()


def test_another_versions_checkpoint_is_refused_in_words(checkpoints, tmp_path):
    content = to_bytes({"identity": {}, "state": {}})
    (tmp_path / "checkpoints" / f"distil-000000099-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(KitError, match="another version of the kit"):
        checkpoints.load()


def save_until_killed(checkpoints, first, told):
    """In a child: save step after step, and tell the pipe which are whole."""
    for step in range(first, first + 10_000):
        checkpoints.save(step, state(step))
        os.write(told, step.to_bytes(4, "little"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_hundred_kills_while_saving_leave_a_checkpoint_that_is_one_save_old_at_most(checkpoints, tmp_path):
    moments, last = random.Random(20220013), 0
    for _ in range(200):
        listen, tell = os.pipe()
        if (child := os.fork()) == 0:
            save_until_killed(checkpoints, last + 1, tell)
        os.close(tell)
        os.read(listen, 4)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = os.read(listen, 1 << 20)
        told = int.from_bytes(said[-4:], "little") if said else last + 1
        os.close(listen)
        last = checkpoints.load()["step"]
        assert told <= last <= told + 1
    assert len(saved_in(tmp_path)) <= 3


def test_the_steps_of_pruning_are_in_the_order_of_the_run(tmp_path, log):
    stages = ["teacher", "distil", "prune1", "finetune1", "prune2", "finetune2", "prune", "finetune"]
    for stage in [*stages[3:], *stages[:3]]:
        of(tmp_path, log, stage).finish(0, {"x": 1})
    assert [saved.stage for saved in saved_in(tmp_path)] == stages
    assert of(tmp_path, log, "finetune2").files()[0].path.name.startswith("finetune2-000000000-done-")
