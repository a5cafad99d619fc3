import numpy as np
import pytest
import torch

from kit.augment.reference import SeededPipeline
from kit.augment.views import training_views
from kit.config.schema import Augment, Data
from kit.data.cache import load_photos
from kit.data.layout import find_dataset
from kit.data.loader import CachedBatches, DecodingBatches, Order

CPU = torch.device("cpu")
DATA = Data(image_size=32, cache_size=32)
BOSS = Augment(crop_scale=(0.7, 1.0), vertical_flip=0.5, rotate=180, affine_rotate=30)


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


def test_the_last_smaller_batch_is_dropped():
    assert Order(9_993, 128, seed=0).steps_per_epoch == 78


def test_seeds_do_not_collide_with_steps():
    """seed + step would give seed 1 at step 2 the order of seed 2 at step 1."""
    assert Order(50, 50, seed=1).rows(2).tolist() != Order(50, 50, seed=2).rows(1).tolist()


def test_a_cached_batch_is_a_function_of_the_step_alone(drawn, tmp_path, log):
    photos = load_photos(find_dataset(drawn, None, 0.2, 0).splits, 32, tmp_path, log, workers=2)["training"]
    make = lambda: CachedBatches(photos, Order(120, 16, 3), lambda p, s, g, share: training_views(p, s, g, DATA, BOSS, share), CPU)  # noqa: E731
    straight, jumped = make(), make()
    for step in range(3):
        straight(step)
    (images, labels), (again, same) = straight(3), jumped(3)
    assert torch.equal(images, again)
    assert labels.tolist() == same.tolist()
    assert images.shape == (16, 3, 32, 32)


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
