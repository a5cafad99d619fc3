"""One run in two processes: the same batches, and weights equal to a stated tolerance. gloo on the CPU stands in for two GPUs."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from kit.augment.views import training_views
from kit.config.schema import Augment, Data
from kit.data.cache import load_photos
from kit.data.layout import find_dataset
from kit.data.loader import CachedBatches
from kit.data.order import Order
from kit.errors import KitError
from kit.session import alone
from kit.train.checkpoint import saved_in
from kit.world import World

# Of weights after 12 steps: sums are added in another order. Adam moves a weight whose gradient is zero but for rounding by as much as any
# other, either way, so one may be off by a step of the rate. Seen on three kinds of CPU, on two of them with harder photos: 4e-8, 3e-6 and
# 2e-5 in the mean, 2e-5, 7e-5 and 1.1e-3 at most.
MEAN, MOST = 1e-4, 4e-3


def test_the_shares_of_any_number_of_processes_make_up_the_batch_of_one(drawn, tmp_path, log):
    photos = load_photos(find_dataset(drawn, None, 0.2, 0).splits, 32, tmp_path, log, workers=2)["training"]
    data, views = Data(image_size=32, cache_size=32), Augment(crop_scale=(0.7, 1.0), rotate=180, affine_rotate=30, brightness=0.2)

    def batch(world):
        augment = lambda p, s, g, share: training_views(p, s, g, data, views, share)  # noqa: E731
        return CachedBatches(photos, Order(120, 16, 3, world), augment, torch.device("cpu"))(5)

    images, labels = batch(World())
    for size in (2, 4):
        parts = [batch(World(rank, size)) for rank in range(size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_a_batch_that_can_not_be_shared_is_refused():
    with pytest.raises(KitError, match="batch of 64 photos can't be shared by 3 processes"):
        Order(100, 64, 0, World(0, 3))
    assert Order(100, 66, 0, World(0, 2)).batch_size == 66
    with pytest.raises(KitError, match=r"66 photos can't be shared by 2 processes, which mix neighbours: .* to multiples of 4"):
        Order(100, 66, 0, World(0, 2), pairs=True)
    with pytest.raises(KitError, match="3 photos can't be shared by 2 processes: begin fewer"):
        Order(3, 64, 0, World(0, 2), pairs=True)
    assert (few := Order(27, 64, 0, World(1, 2), pairs=True)).batch_size == 24
    assert few.share == slice(12, 24)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment, and should be a number from 1 to"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '' in the environment, and should be"),
        ({"WORLD_SIZE": "2"}, "RANK is not set in the environment, and should be a number from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2' in the environment, and should be a number from 0 to 1"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "2"},
            "The 2 processes can't find each other (Error initializing torch.distributed",
        ),
    ],
)
def test_an_environment_that_does_not_describe_the_processes_is_told_in_words(refused, monkeypatch, drawn, tmp_path, where, says):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    error = refused(tmp_path, "run", "sample", "--tiny", "--data", str(drawn), "--out", "out")
    assert says in error
    assert "torchrun --nproc-per-node 2 -m kit run … sets all that several processes need" in error


def test_a_port_that_another_run_has_is_told_in_words(refused, monkeypatch, drawn, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": taken.getsockname()[1]}.items():
            monkeypatch.setenv(name, str(value))
        assert "can't find each other" in refused(tmp_path, "run", "sample", "--tiny", "--data", str(drawn), "--out", "out")


def test_a_rank_that_a_clusters_shell_has_silences_no_error(refused, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "3")
    assert "There is no folder" in refused(tmp_path, "run", "sample", "--tiny", "--data", "nowhere", "--out", "out")


def as_two(code, *words):
    """A short program in two processes; (exit codes, the lines that each has said, without those of torch 2.10's gloo)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, *code, *words],
            env=os.environ | where | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    return [process.returncode for process in both], [[line for line in lines if not line.startswith("[Gloo]")] for lines in said]


@pytest.mark.slow
def test_what_the_second_raises_in_its_turn_ends_the_first_too():
    """Such as a signal or the budget's end while it reads the photos: the first went on to what the second was no longer there for."""
    code = (
        "from kit.errors import Suspended\n"
        "from kit.world import joined\n"
        "def work():\n"
        "    if not world.first: raise Suspended('SIGTERM came')\n"
        "with joined() as world:\n"
        "    try: world.in_turn(work)\n"
        "    except Suspended as pause: print(world.lead(lambda: f'handed in: {pause}'))\n"
    )
    assert as_two(["-c", code]) == ([0, 0], [["handed in: SIGTERM came"]] * 2)


@pytest.mark.slow
def test_a_folder_that_is_in_use_is_said_once_and_no_process_breaks(drawn, tmp_path):
    with alone(tmp_path):
        codes, said = as_two(["-m", "kit"], "run", "sample", "--data", drawn, "--out", tmp_path)
    assert codes == [1, 1]
    assert said[0][0].startswith(f"error: {tmp_path} is in use by")
    assert said[1] == []


@pytest.mark.slow
def test_a_students_batch_that_can_not_be_shared_is_refused_before_its_teacher_is_trained(drawn, tmp_path):
    words = ["--tiny", "--set", "train.batch_size=15", "--data", drawn, "--out", tmp_path / "out", "--cache", tmp_path]
    codes, said = as_two(["-m", "kit"], "run", "sample", *words)
    assert codes == [1, 1]
    assert said[0][-1].startswith("error: A batch of 15 photos can't be shared by 2 processes")
    assert not (tmp_path / "out" / "teacher.ckpt").exists()


@pytest.fixture
def place(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "photos")
    return tmp_path


def run(place, out, *words, processes=1, expect=0):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [*launch, "-m", "kit", "run", *words, "--tiny", "--data", "photos", "--out", out, "--cache", "cache"]
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def weights(place, out, stage):
    path = next(saved.path for saved in saved_in(place / out) if saved.stage == stage and saved.done)
    return torch.load(path, weights_only=True)["state"]["network"]


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(coloured, tmp_path):
    """The whole run, the teacher given: a student distilled with hints and EMA, slimmed, fine-tuned, packed."""
    place, words = shutil.copytree(coloured, tmp_path / "photos").parent, ["sample", "--set", "competition=any"]
    made = ["made", "medium", *words[1:], "--set", "teacher.train.epochs=4"]
    run(place, *made)
    teacher = (place / "made" / "teacher.ckpt").read_bytes()
    (place / "made" / "teacher.ckpt").unlink()
    printed = run(place, *made, processes=2)  # the first brings it back; whether it is there the second may not ask before or after
    assert printed.count("\ndone: ") == 1  # the second's account is of the session before
    assert (place / "made" / "teacher.ckpt").read_bytes() == teacher
    run(place, "one", *words, "--teacher", "made/teacher.ckpt")
    printed = run(place, "two", *words, "--teacher", "made/teacher.ckpt", processes=2)
    assert "2 processes" in printed
    assert printed.count("distil 2/2") == 1  # one process speaks
    one, two = (weights(place, out, "distil") for out in ("one", "two"))
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one if one[name].is_floating_point()])
    assert apart.mean() < MEAN
    assert apart.max() < MOST
    losses = [[json.loads(line)["loss"] for line in (place / out / "metrics.jsonl").read_text().splitlines()] for out in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert (place / "two" / "submission.csv").is_file()


@pytest.mark.timed
def test_a_run_goes_on_with_another_number_of_processes(place, paced):
    words = ["simple", "--set", "competition=any", "--set", "train.epochs=2000"]
    printed = run(place, "out", *words, "--budget", f"{paced(20)}s", processes=2)
    assert "provisional" in printed or (place / "out" / "submission.csv").is_file()
    assert "distil: going on from step" in run(place, "out", *words, "--budget", f"{paced(12)}s")
