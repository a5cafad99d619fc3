"""The recipes: a run is a named function that returns a whole config.

`simple`, `medium` and `boss` are NTU ML2023 HW13's published solutions as their author ran them; `record` is ours; `hw7` is the course's
of 2020; `sample` is the smoke test on photos that the kit draws itself.
"""

from collections.abc import Callable

from kit.config.schema import Augment, Config, Data, Predict, Prune, Student, Teacher, Train
from kit.config.terms import CE, KD, Hint
from kit.errors import KitError, nearest

BOSS = Augment(crop_scale=(0.7, 1.0), vertical_flip=0.5, rotate=180, affine_rotate=30)
KNOWN = Augment(crop_scale=(0.35, 1.0), brightness=0.2)  # nothing that a usual ImageNet teacher has not seen

# The course's training settings, which its published solutions keep where they say nothing else.
COURSE = {
    "optimizer": "adam",
    "batch_size": 64,
    "lr": 3e-4,
    "weight_decay": 1e-5,
    "decay_everything": True,
    "schedule": "constant",
    "clip_norm": 10,
}


def simple() -> Config:
    """The course's student and labels alone: 0.45807 on Kaggle."""
    return Config(
        recipe="simple",
        competition="hw13-2023",
        student=Student(name="hw13"),
        distill=(CE(),),
        train=Train(epochs=10, **COURSE),
    )


def medium() -> Config:
    """The same student under plain distillation, αT²·KL + (1 − α)·CE with α = 0.5 and T = 20: 0.75202 on Kaggle."""
    return Config(
        recipe="medium",
        competition="hw13-2023",
        student=Student(name="hw13"),
        distill=(KD(weight=0.5, temperature=20), CE(weight=0.5)),
        train=Train(epochs=700, patience=300, **COURSE),
    )


def boss() -> Config:
    """The published 0.82687, layer by layer. Its 99,891 parameters keep 2022's limit and are over 2023's 60,000.

    With p = epoch / epochs: 10p² · [(1 − p²)·T²·KL + p²·CE] + Σ wᵢ·SmoothL1(studentᵢ, teacherᵢ).
    """
    hints = tuple(Hint(weight=w, student=f"blocks.{i}", teacher=f"layer{i + 1}") for i, w in enumerate((3, 2, 1)))
    return Config(
        recipe="boss",
        competition="hw13-2023",
        limit="hw13-2022",
        data=Data(augment=BOSS),
        student=Student(name="boss"),
        distill=(KD(weight=10, ramp="p^2(1-p^2)", temperature=20), CE(weight=10, ramp="p^4"), *hints),
        train=Train(epochs=600, patience=60, **(COURSE | {"batch_size": 128, "lr": 1e-3})),
    )


def record() -> Config:
    """Ours at ≤ 60,000 parameters: a strided stem, residual depthwise blocks with gated channels, and nothing to learn from but what the
    teacher says of views that it knows, in many small batches at a large rate, by Muon. docs/record.md has what else was tried.
    """
    return Config(
        recipe="record",
        competition="hw13-2023",
        data=Data(augment=KNOWN),
        student=Student(name="gated"),
        distill=(KD(temperature=4),),
        train=Train(
            epochs=600, batch_size=64, optimizer="muon", lr=20e-3, weight_decay=0.02, warmup_epochs=2, clip_norm=5, ema_decay=0.998
        ),
        predict=Predict(flip=True, crops=5),
    )


def hw7() -> Config:
    """HW7 2020: the course's student distilled, its file at most 300,000 bytes. Photos are cropped at their own size and not normalised."""
    return Config(
        recipe="hw7",
        competition="hw7-2020",
        data=Data(
            image_size=256,
            crop_pct=0.5,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            augment=Augment(crop_scale=(0.25, 0.25), crop_ratio=(1, 1), rotate=15),
        ),
        student=Student(name="hw7"),
        distill=(KD(weight=0.5, temperature=20), CE(weight=0.5)),
        train=Train(epochs=200, batch_size=32, lr=1e-3, weight_decay=0.01, decay_everything=True, schedule="step", drops=(0.65, 0.9)),
    )


def sample() -> Config:
    """Six kinds of drawn shapes, every stage: a teacher trained here, a student distilled, slimmed and packed."""
    views = Augment(crop_scale=(0.6, 1.0), vertical_flip=0.5)
    return Config(
        recipe="sample",
        competition="any",
        data=Data(image_size=32, cache_size=48, crop_pct=1.0, augment=views),
        teacher=Teacher(augment=views, train=Train(epochs=12, batch_size=64, lr=1e-3, warmup_epochs=1)),
        student=Student(name="record"),
        distill=(KD(temperature=2), CE(weight=0.5), Hint(weight=0.5, student="blocks.1", teacher="layer1")),
        train=Train(epochs=18, batch_size=64, lr=4e-3, warmup_epochs=1, ema_decay=0.98),
        prune=Prune(keep=0.6, finetune_epochs=8),
        predict=Predict(flip=True),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "sample": sample,
    "simple": simple,
    "medium": medium,
    "boss": boss,
    "record": record,
    "hw7": hw7,
}


def recipe(name: str) -> Config:
    if name not in RECIPES:
        raise KitError(f"There is no recipe {name!r}. Nearest: {nearest(name, RECIPES)}.")
    return RECIPES[name]()
