"""Photos that the kit draws itself, so that a fresh machine can run every stage: six kinds of shapes in the HW13 layout.

Shape alone tells the class. Place, size, turn and both colours are drawn at random, so a classifier of colour histograms stays near
chance while a small convolutional network gets nearly all of them.
"""

import math
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("disc", "ring", "square", "cross", "triangle", "stripes")
SPLITS = {"training": 1_200, "validation": 300, "evaluation": 120}
SIDE = 64  # px


def draw_dataset(folder: Path, seed: int = 0, splits: dict[str, int] | None = None) -> Path:
    """Write `training/<label>_<id>.jpg`, `validation/…` and `evaluation/<id>.jpg`; equal seeds give equal bytes.

    Already drawn folders are left as they are; a half drawn one has no `evaluation` yet, for it gets its name last.
    """
    splits = splits or SPLITS
    for number, (name, count) in enumerate(splits.items()):
        place, unfinished = folder / name, folder / f".{name}.drawing"
        if place.is_dir():
            continue
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        random = np.random.default_rng([seed, number])
        for i in range(count):
            label = i % len(SHAPES) if name != "evaluation" else int(random.integers(len(SHAPES)))
            file = f"{i:04d}.jpg" if name == "evaluation" else f"{label}_{i // len(SHAPES)}.jpg"
            draw_photo(SHAPES[label], random).save(unfinished / file, quality=90)
        unfinished.rename(place)
    return folder


def draw_photo(shape: str, random: np.random.Generator) -> Image.Image:
    """One shape, turned and placed at random, blurred a little and noisy."""
    back, front = random_colours(random)
    canvas = Image.new("RGB", (SIDE * 2, SIDE * 2), back)  # twice the size, reduced at the end: smooth edges
    draw = ImageDraw.Draw(canvas)
    radius = random.uniform(0.45, 0.75) * SIDE
    centre = SIDE + random.uniform(-0.25, 0.25, size=2) * SIDE
    turn = random.uniform(0, 2 * math.pi)

    def polygon(points: list[tuple[float, float]], fill: tuple[int, ...]) -> None:
        """Corners in units of the radius, turned and moved to the shape's place."""
        c, s = math.cos(turn), math.sin(turn)
        draw.polygon([(centre[0] + radius * (x * c - y * s), centre[1] + radius * (x * s + y * c)) for x, y in points], fill)

    def circle(r: float, fill: tuple[int, ...]) -> None:
        draw.ellipse([*(centre - r), *(centre + r)], fill)

    if shape == "disc":
        circle(radius * 0.8, front)
    elif shape == "ring":
        circle(radius, front)
        circle(radius * 0.55, back)
    elif shape == "square":
        polygon([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)], front)
    elif shape == "cross":
        polygon([(-1, -0.28), (1, -0.28), (1, 0.28), (-1, 0.28)], front)
        polygon([(-0.28, -1), (0.28, -1), (0.28, 1), (-0.28, 1)], front)
    elif shape == "triangle":
        polygon([(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)], front)
    else:
        for at in (-0.8, -0.25, 0.3, 0.85):
            polygon([(-1, at - 0.14), (1, at - 0.14), (1, at + 0.14), (-1, at + 0.14)], front)
    photo = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0, 2))).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    noisy = np.asarray(photo, np.float32) + random.normal(0, 8, (SIDE, SIDE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def random_colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two colours far enough apart to be told from each other."""
    while True:
        back, front = random.integers(0, 256, 3), random.integers(0, 256, 3)
        if np.abs(back - front).sum() > 180:
            return tuple(map(int, back)), tuple(map(int, front))
