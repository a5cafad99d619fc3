import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from kit.augment.reference import SeededPipeline
from kit.augment.views import training_views
from kit.config.schema import Augment, Data
from kit.data.cache import load_photos
from kit.data.layout import find_dataset
from kit.data.loader import CachedBatches, DecodingBatches
from kit.data.order import Order
from kit.errors import KitError
from kit.world import World

CPU = torch.device("cpu")
DATA = Data(image_size=32, cache_size=32)
BOSS = Augment(crop_scale=(0.7, 1.0), vertical_flip=0.5, rotate=180, affine_rotate=30)


@pytest.fixture
def photos(drawn, tmp_path, log):
    return load_photos(find_dataset(drawn, None, 0.2, 0).splits, 32, tmp_path, log, workers=2)["training"]


def cached(photos, device=CPU, feed="cache", workers=0, world=None):
    views = lambda p, s, g, share: training_views(p, s, g, DATA, BOSS, share)  # noqa: E731
    return CachedBatches(photos, Order(120, 16, 3, world), views, device, feed, workers)


def test_an_epoch_visits_every_photo_once_in_a_new_order():
    order = Order(100, 10, seed=5)
    first, second = (torch.cat([order.rows(step) for step in range(start, start + 10)]) for start in (0, 10))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(100))
    assert first.tolist() != second.tolist()


def test_a_balanced_epoch_shows_every_class_equally_often_and_uses_its_photos_in_turn():
    labels = np.repeat([0, 1, 2, -1], [50, 7, 13, 30])
    order = Order(100, 10, seed=5, balance=labels)
    epochs = [torch.cat([order.rows(step) for step in range(start, start + 10)]).numpy() for start in (0, 10)]
    for rows in epochs:
        counts = np.bincount(rows, minlength=100)
        assert sorted(np.bincount(labels[rows] + 1).tolist()) == [23, 23, 24, 30]
        assert (counts[labels == -1] == 1).all()
        assert counts[labels == 0].max() == 1
        assert set(counts[labels == 1]) == {3, 4}
    assert epochs[0].tolist() != epochs[1].tolist()
    assert order.rows(13).tolist() == Order(100, 10, seed=5, balance=labels).rows(13).tolist()


def test_an_epochs_order_is_drawn_once(monkeypatch):
    order = Order(100, 10, seed=5)
    drawn = []
    monkeypatch.setattr(order, "draw", lambda epoch: drawn.append(epoch) or Order.draw(order, epoch))
    asked = [7, 8, 9, 10, 11, 9, 10, 12, 25]
    assert [order.rows(step).tolist() for step in asked] == [Order(100, 10, seed=5).rows(step).tolist() for step in asked]
    assert drawn == [0, 1, 2]


def test_the_last_smaller_batch_is_dropped():
    assert Order(9_993, 128, seed=0).steps_per_epoch == 78


def test_seeds_do_not_collide_with_steps():
    """seed + step would give seed 1 at step 2 the order of seed 2 at step 1."""
    assert Order(50, 50, seed=1).rows(2).tolist() != Order(50, 50, seed=2).rows(1).tolist()


def test_a_cached_batch_is_a_function_of_the_step_alone(photos):
    straight, jumped = cached(photos), cached(photos)
    for step in range(3):
        straight(step)
    (images, labels), (again, same) = straight(3), jumped(3)
    assert torch.equal(images, again)
    assert labels.tolist() == same.tolist()
    assert images.shape == (16, 3, 32, 32)


def test_views_are_drawn_by_the_seed_and_the_step_in_their_own_photos_sizes(photos):
    photos = replace(photos, sizes=np.arange(240).reshape(120, 2))

    def drawn(seed, step):
        order, views = Order(120, 16, seed), lambda pixels, sizes, draw, share: (sizes, torch.rand(1, generator=draw).item())
        (sizes, number), _ = CachedBatches(photos, order, views, CPU)(step)
        assert (sizes[:, 0] == 2 * order.rows(step)).all()
        return number

    assert drawn(3, 0) == drawn(3, 0)
    assert len({drawn(seed, step) for seed in (3, 4) for step in (0, 1)}) == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_streamed_batches_are_the_mapped_ones_bit_for_bit_over_epochs_jumps_and_any_number_of_threads(photos, workers):
    mapped, streamed = cached(photos), cached(photos, feed="stream", workers=workers)
    for step in [*range(10), 40, 3, 3, 4]:
        (images, labels), (again, same) = mapped(step), streamed(step)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    assert "mapped" in mapped.says
    assert "streamed" in streamed.says


def test_several_processes_stream_the_batch_of_one(photos):
    parts = [cached(photos, feed="stream", world=World(rank, 2))(5)[0] for rank in range(2)]
    assert torch.equal(torch.cat(parts), cached(photos)(5)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: resident memory, pinning and the side stream were not tried")
def test_on_a_gpu_resident_and_streamed_batches_are_equal_bit_for_bit(photos):
    card = torch.device("cuda", torch.cuda.current_device())
    resident, streamed = cached(photos, card), cached(photos, card, "stream", 3)
    assert "resident" in resident.says
    for step in [*range(10), 40, 3]:
        (images, labels), (again, same) = resident(step), streamed(step)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
        torch.testing.assert_close(images.cpu(), cached(photos)(step)[0], rtol=0, atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: a full device's memory was not tried")
def test_a_gpu_with_too_little_memory_gets_the_photos_streamed(photos):
    card = torch.device("cuda", torch.cuda.current_device())
    photos = replace(photos, pixels=np.zeros((len(photos), 512, 512, 3), np.uint8))  # more than the steps by which a driver counts
    held = torch.empty(torch.cuda.mem_get_info(card)[0] - 3 * photos.pixels.nbytes // 2, dtype=torch.uint8, device=card)
    says = cached(photos, card).says
    del held
    torch.cuda.empty_cache()
    assert "are streamed" in says
    assert "half of it is kept" in says


ENDS = """
import os, signal, sys
from multiprocessing import active_children
from pathlib import Path
import torch
from kit.augment.reference import SeededPipeline
from kit.config.schema import Augment, Data
from kit.data.layout import find_dataset
from kit.data.loader import DecodingBatches
from kit.data.order import Order
from kit.device import shortages_named
from kit.errors import KitError

if __name__ == "__main__":
    split = find_dataset(Path(sys.argv[1]), None, 0.2, 0).training
    pipeline = SeededPipeline(Data(image_size=32, cache_size=32), Augment())
    batches = DecodingBatches(split, Order(120, 16, 3), pipeline, torch.Tensor.float, torch.device("cpu"), 2)
    try:
        with shortages_named():
            batches(0)
            if sys.argv[2] == "killed":
                os.kill(active_children()[0].pid, signal.SIGKILL)
            [batches(step) for step in range(1, 20)]
    except KitError as error:
        print(error, flush=True)
    os._exit(0)  # the other worker has nothing to say any more
"""


STAYS = """
import sys
from multiprocessing import active_children
from pathlib import Path
import torch
from kit.augment.reference import SeededPipeline
from kit.config.schema import Augment, Data
from kit.data.layout import find_dataset
from kit.data.loader import DecodingBatches
from kit.data.order import Order

if __name__ == "__main__":
    split = find_dataset(Path(sys.argv[1]), None, 0.2, 0).training
    pipeline = SeededPipeline(Data(image_size=32, cache_size=32), Augment())
    batches = DecodingBatches(split, Order(120, 16, 3), pipeline, torch.Tensor.float, torch.device("cpu"), 1)
    for step in (0, 7):  # which is not the next one: another worker begins
        batches(step)
        status = Path(f"/proc/{active_children()[-1].pid}/status").read_text()
        print(int(status.partition("SigBlk:")[2].split()[0], 16))
    kept = batches  # as a traceback would
"""


@pytest.mark.slow
def test_workers_see_no_signal_from_the_first_on_and_keep_no_process_from_its_end(drawn, tmp_path):
    script = tmp_path / "stays.py"
    script.write_text(STAYS)
    done = subprocess.run([sys.executable, script, drawn], capture_output=True, text=True, timeout=120)
    both = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM))
    assert [int(mask) & both for mask in done.stdout.split()] == [both, both], done.stdout + done.stderr
    assert done.returncode == 0


SMALL = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"', "-"]


@pytest.mark.parametrize(("how", "within"), [("killed", []), ("shared memory that is too small", SMALL)])
def test_a_worker_that_ends_is_named(drawn, tmp_path, how, within):
    """In a process of its own: torch tells it by a signal's handler, wherever the main thread then is."""
    if within and (not shutil.which("unshare") or subprocess.run([*within, "true"], capture_output=True).returncode):
        pytest.skip("/dev/shm can't be made smaller for one process here")
    script = tmp_path / "ends.py"
    script.write_text(ENDS)
    done = subprocess.run([*within, sys.executable, script, drawn, how], capture_output=True, text=True, timeout=120)
    assert "killed by the system" in done.stdout, done.stdout + done.stderr
    assert "--shm-size=2g" in done.stdout
    assert "data.workers=1" in done.stdout


@pytest.mark.parametrize("workers", [0, 2])
def test_decoded_batches_are_the_same_for_any_number_of_workers_and_after_a_jump(drawn, workers):
    split = find_dataset(drawn, None, 0.2, 0).training
    make = lambda n: DecodingBatches(split, Order(120, 16, 3), SeededPipeline(DATA, BOSS), torch.Tensor.float, CPU, n)  # noqa: E731
    straight, jumped = make(workers), make(0)
    for step in range(2):
        straight(step)
    (images, labels), (again, same) = straight(2), jumped(2)
    assert images.shape == (16, 32, 32, 3)
    assert np.array_equal(images, again)
    assert labels.tolist() == same.tolist()


def test_each_decoded_photo_has_a_seed_of_its_own_at_each_step_and_one_stream_gives_them_all(drawn):
    seeds, split = [], find_dataset(drawn, None, 0.2, 0).training
    batches = DecodingBatches(split, Order(120, 16, 3), lambda photo, seed: seeds.append(seed) or photo, torch.Tensor.float, CPU, 0)
    batches(0)
    stream = batches.stream
    batches(1)
    assert batches.stream is stream  # another would begin its workers anew
    assert len(set(seeds)) == 32


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_vanishes_between_two_epochs_is_named(drawn, tmp_path, workers):
    split = find_dataset(shutil.copytree(drawn, tmp_path / "photos"), None, 0.2, 0).training
    batches = DecodingBatches(split, Order(120, 16, 3), SeededPipeline(DATA, BOSS), torch.Tensor.float, CPU, workers)
    for photo in split.paths:
        photo.unlink()
    with pytest.raises(KitError, match=r"^The photo \S+ can't be read \(No such file or directory\)\. Bring .* again\.$"):
        batches(0)
