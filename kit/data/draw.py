"""Photos that the kit draws itself, so that a fresh machine can run every stage: six kinds of shapes in the HW13 layout.

Shape alone tells the class. Place, size, turn and both colours are drawn at random, so a classifier of colour histograms stays near
chance while a small convolutional network gets nearly all of them.
"""

import math
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kit.files import locked, make_folder

SHAPES = ("disc", "ring", "triangle", "cross", "stripes", "dots")
SPLITS = {"training": 1_200, "validation": 300, "evaluation": 120}
SIDE = 48  # px


def draw_dataset(folder: Path, seed: int = 0, splits: dict[str, int] | None = None) -> Path:
    """Write `training/<label>_<id>.jpg`, `validation/…` and `evaluation/<id>.jpg`; equal seeds give equal bytes.

    Already drawn folders are left as they are; a half drawn one has no `evaluation` yet, for it gets its name last.
    """
    with locked(make_folder(folder), wait=lambda: None):  # of several processes one draws
        for number, (name, count) in enumerate((splits or SPLITS).items()):
            place, unfinished = folder / name, folder / f".{name}.drawing"
            if place.is_dir():
                continue
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            draw_split(unfinished, name, count, np.random.default_rng([seed, number]))
            unfinished.rename(place)
    return folder


def draw_split(folder: Path, name: str, count: int, random: np.random.Generator) -> None:
    for i in range(count):
        label = i % len(SHAPES) if name != "evaluation" else int(random.integers(len(SHAPES)))
        file = f"{i:04d}.jpg" if name == "evaluation" else f"{label}_{i // len(SHAPES)}.jpg"
        draw_photo(SHAPES[label], random).save(folder / file, quality=90)


def draw_photo(shape: str, random: np.random.Generator) -> Image.Image:
    """One shape, turned and placed at random, blurred a little and noisy."""
    colours = random_colours(random)
    canvas = Image.new("RGB", (SIDE * 2, SIDE * 2), colours[0])  # twice the size, reduced at the end: smooth edges
    radius, turn = random.uniform(0.6, 0.85) * SIDE, random.uniform(0, 2 * math.pi)
    centre = SIDE + random.uniform(-0.15, 0.15, size=2) * SIDE
    to_canvas = radius * np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    for points, layer in outlines(shape):
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in np.array(points) @ to_canvas + centre], fill=colours[layer])
    photo = canvas.filter(ImageFilter.GaussianBlur(random.uniform(0, 2))).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    noisy = np.asarray(photo, np.float32) + random.normal(0, 6, (SIDE, SIDE, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def outlines(shape: str) -> list[tuple[list[tuple[float, float]], int]]:
    """Polygons within the unit circle, each with its colour: 1 is the shape's, 0 the background's."""
    match shape:
        case "disc":
            return [(ngon(40, 0.8), 1)]
        case "ring":
            return [(ngon(40, 1.0), 1), (ngon(40, 0.55), 0)]
        case "triangle":
            return [(ngon(3, 1.0), 1)]
        case "cross":
            return [(bar(0, 0.28), 1), ([(y, x) for x, y in bar(0, 0.28)], 1)]
        case "stripes":
            return [(bar(at, 0.14), 1) for at in (-0.8, -0.25, 0.3, 0.85)]
    return [(ngon(12, 0.2, x, y), 1) for x in (-0.65, 0, 0.65) for y in (-0.65, 0, 0.65)]


def ngon(corners: int, radius: float, x: float = 0, y: float = 0) -> list[tuple[float, float]]:
    return [(x + radius * math.cos(2 * math.pi * i / corners), y + radius * math.sin(2 * math.pi * i / corners)) for i in range(corners)]


def bar(at: float, half: float) -> list[tuple[float, float]]:
    return [(-1, at - half), (1, at - half), (1, at + half), (-1, at + half)]


def random_colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two colours far enough apart to be told from each other."""
    while True:
        back, front = random.integers(0, 256, 3), random.integers(0, 256, 3)
        if np.abs(back - front).sum() > 180:
            return tuple(map(int, back)), tuple(map(int, front))
