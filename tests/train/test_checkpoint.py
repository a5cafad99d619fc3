import hashlib
import pickle
import subprocess
import sys

import pytest
import torch

from kit.errors import KitError
from kit.train.checkpoint import Checkpoints

RUN = {"config": "abc", "photos": "def"}


@pytest.fixture
def checkpoints(tmp_path, log):
    return Checkpoints(tmp_path, "distil", RUN, log)


def state(step):
    return {"step": step, "weights": torch.full((4,), float(step))}


def test_the_newest_of_two_generations_is_loaded(checkpoints):
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    assert checkpoints.load()["step"] == 30
    assert len(checkpoints.files()) == 2


def test_a_flipped_bit_or_a_cut_is_named_and_the_generation_before_is_used(checkpoints, capsys):
    checkpoints.save(10, state(10))
    newest = checkpoints.save(20, state(20))
    whole = newest.read_bytes()
    for damaged in (whole[:-1], bytes([*whole[:500], whole[500] ^ 4, *whole[501:]]), b""):
        newest.write_bytes(damaged)
        assert checkpoints.load()["step"] == 10
        assert newest.name in capsys.readouterr().out


def test_a_result_is_told_from_a_half_done_stage(checkpoints):
    checkpoints.save(10, state(10))
    assert checkpoints.result() is None
    checkpoints.finish(state(12))
    assert (checkpoints.result()["step"], checkpoints.load()["step"]) == (12, 10)


def test_stages_do_not_see_each_other(checkpoints, tmp_path, log):
    checkpoints.save(10, state(10))
    assert Checkpoints(tmp_path, "finetune", RUN, log).load() is None


def test_another_runs_checkpoint_is_refused_with_what_differs(checkpoints, tmp_path, log):
    checkpoints.save(10, state(10))
    with pytest.raises(KitError, match="photos: def there, other here"):
        Checkpoints(tmp_path, "distil", RUN | {"photos": "other"}, log).load()


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_disk_that_fills_up_while_saving_leaves_the_checkpoint_before(tmp_path):
    """RLIMIT_FSIZE stands in for the full disk, in a process of its own."""
    program = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from kit.console import Log\n"
        "from kit.train.checkpoint import Checkpoints\n"
        "checkpoints = Checkpoints(Path(sys.argv[1]), 'distil', {}, Log())\n"
        "checkpoints.save(10, {'step': 10})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: checkpoints.save(20, {'step': 20, 'weights': torch.zeros(100_000)})\n"
        "except OSError as error: print(error.filename)\n"
        "assert checkpoints.load()['step'] == 10\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "distil-000000020" in done.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_a_malicious_pickle_never_runs(checkpoints, tmp_path):
    """Even one that carries the right name for its bytes."""

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    content = pickle.dumps(Attack())
    (tmp_path / f"distil-000000099-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(KitError, match="no checkpoint of the kit"):
        checkpoints.load()
    assert not (tmp_path / "owned").exists()
