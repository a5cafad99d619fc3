import numpy as np
import pytest
import torch

from kit.augment.mix import mix, rectangles
from kit.config.schema import Augment
from kit.data.order import Order
from kit.stages.photos import mixing

MIXUP, CUTMIX = Augment(mixup=0.4), Augment(cutmix=1.0)


def mixed(augment, batch=8, seed=0, share=slice(None), labels=None):
    images = torch.arange(float(batch))[:, None, None, None].expand(batch, 3, 10, 6)
    labels = torch.arange(batch) % 4 if labels is None else labels
    return mix(images[share], labels[share], 4, augment, np.random.default_rng(seed), batch, share)


def test_mixup_mixes_photos_and_labels_by_the_same_share():
    """A photo's value is its number, so the mean tells how much of each neighbour is in it."""
    images, labels = mixed(MIXUP)
    first = images[0, 0, 0, 0].item()  # (1 - λ) · 1 + λ · 0
    assert labels[0].tolist() == pytest.approx([1 - first, first, 0, 0])
    assert labels[1].tolist() == pytest.approx([first, 1 - first, 0, 0])
    assert images[1, 0, 0, 0].item() == pytest.approx(1 - first)
    assert torch.allclose(labels.sum(1), torch.ones(8))


def test_each_step_of_training_mixes_by_numbers_of_its_own():
    views = lambda step: (torch.arange(8.0)[:, None, None, None].expand(8, 3, 10, 6), torch.arange(8) % 4)  # noqa: E731
    batches = mixing(views, Order(8, 8, 0), MIXUP, 4)
    assert torch.equal(batches(1)[0], batches(1)[0])
    assert not torch.equal(batches(1)[0], batches(2)[0])
    assert mixing(views, Order(8, 8, 0), Augment(), 4) is views


def test_cutmix_labels_are_the_shares_of_the_area():
    images, labels = mixed(CUTMIX, seed=3)
    own = (images == torch.arange(8.0)[:, None, None, None]).float().mean((1, 2, 3))
    assert torch.allclose(labels[torch.arange(8), torch.arange(8) % 4], own, atol=1e-6)
    assert 0 < own.min() < 1
    assert all(len(image.unique()) <= 2 for image in images)


def test_rectangles_are_whole_and_cut_off_at_the_border():
    mask, left = rectangles(np.array([0.75, 0.75]), np.array([[0.5, 0.0], [0.5, 0.0]]), torch.Size((8, 8)), torch.device("cpu"))
    assert mask[0, 0].sum() == 16
    assert mask[1, 0].sum() == 4
    assert mask[1, 0, :2, :2].all()
    assert left.tolist() == [0.75, 1 - 4 / 64]


@pytest.mark.parametrize("augment", [MIXUP, CUTMIX, Augment(mixup=0.2, cutmix=1.0)])
def test_the_shares_of_two_processes_make_up_the_batch_of_one(augment):
    for seed in range(3):
        images, labels = mixed(augment, seed=seed)
        parts = [mixed(augment, seed=seed, share=part) for part in (slice(0, 4), slice(4, 8))]
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_with_both_some_steps_mix_and_some_cut():
    kinds = {len(mixed(Augment(mixup=0.4, cutmix=1.0), seed=seed)[0][0].unique()) > 1 for seed in range(20)}
    assert kinds == {True, False}


def test_an_unlabelled_photo_brings_no_label_and_an_odd_one_stays_alone():
    images, labels = mixed(MIXUP, batch=5, labels=torch.tensor([2, -1, -1, -1, 3]))
    first = images[0, 0, 0, 0].item()
    assert labels[:2, 2].tolist() == pytest.approx([1 - first, first])
    assert labels[2:4].abs().sum() == 0
    assert labels[4].tolist() == [0, 0, 0, 1]
    assert (images[4] == 4).all()
