"""The batched warp against what it stands for: torchvision's own transforms and albumentations, photo by photo."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.functional import to_tensor

from kit.augment.reference import SeededPipeline, training_pipeline
from kit.augment.views import evaluation_views, grey, training_views
from kit.augment.warp import centre_crop, random_resized_crop, warp
from kit.config.schema import Augment, Data
from kit.data.decode import to_square

PIXELS = Data(image_size=64, mean=(0, 0, 0), std=(1, 1, 1))  # views in 0…1
COLOUR = Augment(brightness=0.2, contrast=0.3, saturation=0.5)
BOSS = Augment(crop_scale=(0.7, 1.0), vertical_flip=0.5, rotate=180, affine_rotate=30)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def smooth_photo(width, height):
    """Bands of colour that survive any resampling."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / width * 9 + k) + np.cos(y / height * 7 - k) for k in range(3)]
    return np.stack([(w + 2) / 4 * 255 for w in waves], -1).astype(np.uint8)


def as_batch(photo, side, copies=1):
    """A photo as the cache would hold it, and its own size."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        Image.fromarray(photo).save(file)
        square, _, _ = to_square(Path(file.name), side)
    return torch.from_numpy(square.copy())[None].repeat(copies, 1, 1, 1), torch.tensor([[photo.shape[1], photo.shape[0]]] * copies)


def psnr(a, b):
    return 10 * math.log10(1 / ((a - b) ** 2).mean().item())


@pytest.mark.parametrize("size", [(96, 96), (120, 80), (70, 150), (99, 73)])
def test_evaluation_views_are_resize_and_centre_crop(size):
    photo = smooth_photo(*size)
    pixels, sizes = as_batch(photo, 73)
    course = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    wanted = course(Image.fromarray(photo))
    assert psnr(evaluation_views(pixels, sizes, PIXELS)[0], wanted) > 38
    by_albumentations = torch.from_numpy(training_pipeline(PIXELS, Augment(horizontal_flip=0))(image=photo)["image"]).permute(2, 0, 1) / 255
    assert psnr(by_albumentations, wanted) > 35


def test_crops_from_a_cache_of_256_px_are_those_of_the_photos_to_40_db(real):
    """Crop alone, against PIL and torchvision from the photo as it is. Two of five of these photos are not square."""
    torch.manual_seed(0)
    errors, sizes = [], set()
    for file in sorted((real / "photos512").iterdir())[::15]:
        photo, (square, width, height) = Image.open(file).convert("RGB"), to_square(file, 256)
        sizes.add(photo.size)
        top, left, h, w = RandomResizedCrop.get_params(photo, (0.7, 1.0), (3 / 4, 4 / 3))
        wanted = to_tensor(v2.functional.resized_crop(photo, top, left, h, w, [224, 224]))
        crop = torch.tensor([[(2 * left + w) / width - 1, (2 * top + h) / height - 1, w / width, h / height]])
        view = warp(torch.from_numpy(square.copy())[None], torch.tensor([[256.0, 256.0]]), crop, torch.ones(1, 2), (), 224)
        errors.append(((view[0] / 255 - wanted) ** 2).mean().item())
    assert len(sizes) > 3
    assert 10 * math.log10(1 / np.mean(errors)) > 40


def test_without_any_change_the_photo_comes_out_as_it_went_in():
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=seeded())
    whole, straight = torch.tensor([[0.0, 0, 1, 1]] * 2), torch.ones(2, 2)
    out = warp(pixels, torch.full((2, 2), 32.0), whole, straight, (), 32)
    assert torch.allclose(out, pixels.permute(0, 3, 1, 2).float(), atol=1e-3)


def test_a_small_photo_fills_its_corner_of_the_square_only():
    pixels = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    pixels[:, :20, :30] = 100  # the photo; the rest must never be seen
    pixels[:, 20:, :30], pixels[:, :, 30:] = 100, 100
    pixels[:, 21:, 31:] = 255
    out = warp(pixels, torch.tensor([[30.0, 20.0]]), torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1, 2), (), 64)
    assert torch.allclose(out, torch.full_like(out, 100))


def test_flips_mirror_and_rotations_turn():
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=seeded())
    whole, stored = torch.tensor([[0.0, 0, 1, 1]]), torch.full((1, 2), 32.0)
    plain = pixels.permute(0, 3, 1, 2).float()
    mirrored = warp(pixels, stored, whole, torch.tensor([[-1.0, 1.0]]), (), 32)
    turned = warp(pixels, stored, whole, torch.ones(1, 2), (torch.tensor([math.pi / 2]),), 32)
    assert torch.allclose(mirrored, plain.flip(-1), atol=1e-3)
    assert torch.allclose(turned, plain.rot90(-1, (2, 3)), atol=0.1)


def test_crops_are_drawn_as_torchvision_draws_them():
    """Same area, ratio and place in distribution: means within five standard errors over 4,000 draws of an oblong photo."""
    n, width, height = 4_000, 200, 120
    ours = random_resized_crop(torch.tensor([[width, height]] * n), (0.7, 1.0), (3 / 4, 4 / 3), seeded(1)).double()
    x, y, w, h = ((ours[:, 0] + 1) * width / 2, (ours[:, 1] + 1) * height / 2, ours[:, 2] * width, ours[:, 3] * height)
    mine = torch.stack((x - w / 2, y - h / 2, w, h), 1)
    torch.manual_seed(1)
    blank = torch.zeros(1, height, width)
    theirs = torch.tensor(
        [v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8, (0.7, 1.0)), [blank])[k] for _ in range(n) for k in KEYS]
    )
    theirs = theirs.view(n, 4).double()
    error = 5 * (mine.var(0) / n + theirs.var(0) / n).sqrt()
    assert ((mine.mean(0) - theirs.mean(0)).abs() <= error).all()
    assert (mine[:, :2] >= -1e-3).all()
    assert (mine[:, 0] + mine[:, 2] <= width + 1e-3).all()


KEYS = ("left", "top", "width", "height")


def test_black_corners_and_mean_colour_are_those_of_the_two_rotations():
    """Two torchvision rotations leave 15 % black; one combined warp without the masks would leave 6 %."""
    white = torch.full((400, 64, 64, 3), 255, dtype=torch.uint8)
    ours = training_views(white, torch.full((400, 2), 64), seeded(2), PIXELS, BOSS)
    torch.manual_seed(3)
    seed_002 = v2.Compose([v2.RandomRotation(180), v2.RandomAffine(30)])
    theirs = torch.stack([seed_002(torch.ones(1, 64, 64)) for _ in range(400)])
    assert abs((ours == 0).float().mean() - (theirs == 0).float().mean()) < 0.01
    assert abs(ours.mean() - theirs.mean()) < 0.01


@pytest.mark.parametrize("augment", [Augment(), BOSS, Augment(crop_scale=(0.35, 1.0), brightness=0.2), COLOUR])
def test_albumentations_draws_the_same_kind_of_views(augment):
    """Mean and black share of 300 views of one photo, ours against the reference pipeline."""
    photo, n = smooth_photo(90, 80), 300
    pixels, sizes = as_batch(photo, 80, n)
    ours = training_views(pixels, sizes, seeded(4), PIXELS, augment)
    pipeline = SeededPipeline(PIXELS, augment)
    theirs = torch.from_numpy(np.stack([pipeline(photo, i) for i in range(n)])).permute(0, 3, 1, 2) / 255
    assert torch.allclose(ours.mean((0, 2, 3)), theirs.mean((0, 2, 3)), atol=0.015)
    assert abs((ours.sum(1) == 0).float().mean() - (theirs.sum(1) == 0).float().mean()) < 0.015
    assert training_pipeline(PIXELS, augment)(image=photo)["image"].shape == (64, 64, 3)


def test_contrast_and_saturation_are_torchvisions():
    """By the factors that were drawn, found again from the outcome's spread around grey."""
    photo = smooth_photo(64, 64)
    pixels, sizes = as_batch(photo, 64, 6)
    augment = Augment(horizontal_flip=0, contrast=0.3)
    draw = seeded(7)
    ours = training_views(pixels, sizes, draw, PIXELS, augment) * 255
    plain = training_views(pixels, sizes, seeded(7), PIXELS, Augment(horizontal_flip=0)) * 255
    again = seeded(7)
    torch.rand(6, 2, generator=again), torch.rand(6, 1, 1, 1, generator=again)
    factors = 1 + 0.3 * (2 * torch.rand(6, 1, 1, 1, generator=again) - 1)
    for view, before, factor in zip(ours, plain, factors.flatten().tolist(), strict=True):
        assert torch.allclose(view / 255, v2.functional.adjust_contrast(before / 255, factor), atol=2e-3)
        assert torch.allclose(
            torch.lerp(grey(before[None]), before[None], factor).clamp(0, 255)[0] / 255,
            v2.functional.adjust_saturation(before / 255, factor),
            atol=2e-3,
        )


def test_a_recipes_horizontal_flip_mirrors_and_its_vertical_one_turns_upside_down():
    pixels, sizes = as_batch(smooth_photo(64, 64), 64, 4)
    plain, across, down = (
        training_views(pixels, sizes, seeded(), PIXELS, Augment(horizontal_flip=horizontal, vertical_flip=vertical))
        for horizontal, vertical in ((0, 0), (1, 0), (0, 1))
    )
    assert torch.allclose(across, plain.flip(-1), atol=1e-5)
    assert torch.allclose(down, plain.flip(-2), atol=1e-5)


def test_every_photo_has_numbers_of_its_own():
    pixels, sizes = as_batch(smooth_photo(64, 64), 64, 8)
    views = training_views(pixels, sizes, seeded(5), PIXELS, BOSS)
    assert len({view.numpy().tobytes() for view in views}) == 8


def test_chunks_on_the_cpu_change_nothing():
    pixels = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8, generator=seeded())
    stored, crop = torch.full((11, 2), 32.0), centre_crop(torch.full((11, 2), 32), 28, 24)
    turns = (torch.linspace(-3, 3, 11),)
    whole = warp(pixels, stored, crop, torch.ones(11, 2), turns, 24)
    alone = torch.cat(
        [warp(*(a[i : i + 1] for a in (pixels, stored, crop, torch.ones(11, 2))), (turns[0][i : i + 1],), 24) for i in range(11)]
    )
    assert torch.equal(whole, alone)
