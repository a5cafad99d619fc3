"""`kit new`: a recipe file to begin with, fitted to a folder of photos that was looked at."""

import math
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

from kit.config.competitions import COMPETITIONS
from kit.config.recipes import RECIPES
from kit.console import counted
from kit.data.decode import photo_size
from kit.data.layout import find_dataset
from kit.data.splits import Dataset, Split
from kit.errors import KitError
from kit.files import write_durably

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SIDES = (32, 48, 64, 96, 128, 160, 192, 224)  # px, of which one is proposed
LOOKS = 200  # photos whose size is read
HOLDOUT = "\n            holdout={share},  # of training, to validate with: a fifth has no photo for some class"
FIFTH = 0.2  # of training, which is held out where there is no validation folder
SMALL = 128  # px of the input's side, up to which a student strides once less: where it strides as often its last maps are 8 px and less
PARAMETERS = 60_000  # that are proposed: HW13's limit

TEMPLATE = '''r"""{name}: {photos}

    kit run ./{name}.py --data {data} --tiny
    kit plan ./{name}.py --data {data} --budget 9h
    kit run ./{name}.py --data {data} --budget 9h

The first takes a few minutes at most, the second measures how many hours the third needs. A run belongs to the values below: to change one
after it has begun, choose another --out. `kit run ./{name}.py --dry-run` prints all fields that there are, with those not named here.
"""

from kit.config.schema import Augment, Config, Data, Predict, Student, Teacher, Train
from kit.config.terms import CE, KD


def recipe() -> Config:
    return Config(
        recipe="{name}",  # results go to runs/{name}
        competition="{competition}",  # {about}
        limit={limit},  # what the student may have at most: "60000params", "250kB", "60000params+250kB"; None: the competition's
        data=Data(
            image_size={side},  # px, of the networks' input; time grows with its square{holdout}
            augment=Augment(crop_scale=(0.35, 1.0), horizontal_flip=0.5, brightness=0.2),  # which changes leave a photo in its class?
        ),
        teacher=Teacher(train=Train(epochs=30, batch_size={batch}, lr=1e-3, warmup_epochs=1)),  # of one that the run trains itself
        student=Student(name="{student}", parameters={parameters:_}),  # as wide as fits; `kit students` lists the others
        distill=(  # docs/methods.md lists the losses; their weighted sum is what is learnt
            KD(weight=1, temperature=4),  # what the teacher says
            CE(weight=0.1),  # what the labels say; leave it out where the teacher is good
        ),
        train=Train(
            epochs=100,  # `kit plan … --epochs auto` says how many fit into your hours
            batch_size={batch},  # photos a step
            optimizer="muon",  # "adamw", at 8e-3 with 600 photos and 16e-3 with 2,000, was a point behind (kit study few-photos)
            lr=20e-3,  # learning rate at its highest; from there it falls to zero
            weight_decay=0.02,  # pulls weights to zero, against learning photos by heart
            warmup_epochs=2,  # in which the learning rate rises
            clip_norm=5,  # a longer gradient is cut to this length
            ema_decay=0.998,  # what counts is an average of the weights, over some 500 steps; in a short plan over fewer
            seed=1,  # of first weights, order and views
        ),
        predict=Predict(flip=True, crops=5),  # centre, corners and their mirror images are asked; no flip where left and right differ
    )
'''


def draft(name: str, data: Path, folder: Path) -> Iterator[str]:
    """Write `folder`/NAME.py for the data set below `data`; yields what was found and what to do next.

    Raises:
        KitError: no data set there, a name that a recipe or a file has already, or one that no file should have.
    """
    file = folder / f"{check_name(name)}.py"
    if file.exists():
        raise KitError(f"{file} is there already. Choose another name, or remove it.")
    dataset, share = find_with_validation(data)
    competition = rules_of(dataset)
    side = side_for(dataset.training)
    photos = (
        f"{counted(len(dataset.training), 'photo')} of {len(dataset.classes)} classes to learn from, {len(dataset.validation):,} to "
        f"validate with{' (held out of training)' if dataset.held_out else ''}, {len(dataset.evaluation):,} to predict."
    )
    text = TEMPLATE.format(
        name=name,
        data=shlex.quote(str(data)),
        photos=photos,
        competition=competition,
        about="its classes, CSV and teacher's file" if competition != "any" else "any folder: classes and ids from the photos",
        limit=f'"{PARAMETERS}params"' if competition == "any" else None,
        side=side,
        student="fine-gated" if side <= SMALL else "gated",
        holdout="" if share == FIFTH else HOLDOUT.format(share=share),
        parameters=COMPETITIONS[competition].max_parameters or PARAMETERS,
        batch=64 if len(dataset.training) >= 2_000 else 32,  # some dozens of steps an epoch
    )
    write_durably(file, text.encode())
    yield dataset.counts()
    yield f"{file}: competition {competition}, {side} px. Try it: kit run ./{file.name} --data {shlex.quote(str(data))} --tiny"


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise KitError(f"{name!r} is no name for a recipe: letters, digits, - and _ alone, without a folder or .py.")
    if name in RECIPES:
        raise KitError(f"The kit has a recipe {name!r} already. Choose another name, such as my-{name}.")
    elsewhere = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    if name == "kit" or name in sys.stdlib_module_names or PathFinder.find_spec(name, elsewhere):
        raise KitError(f"Python has a module {name!r}, which {name}.py would hide from it. Choose another name, such as my-{name}.")
    return name


def rules_of(dataset: Dataset) -> str:
    """The one competition that has as many classes and rows, and, where several have, its teacher beside the photos; else `any`."""
    size = len(dataset.classes), len(dataset.evaluation)
    fits = [name for name, rules in COMPETITIONS.items() if rules.classes and (len(rules.classes), rules.rows) == size]
    if len(fits) > 1:
        fits = [name for name in fits if (dataset.root / COMPETITIONS[name].teacher_file).is_file()]
    return fits[0] if len(fits) == 1 else "any"


def find_with_validation(data: Path) -> tuple[Dataset, float]:
    """The data set below `data`, and the share of training that its validation photos were held out by where it has no folder of them."""
    dataset = find_dataset(data, None, None, 0)
    share = share_to_hold_out(dataset)
    return (find_dataset(data, None, share, 0) if dataset.held_out else dataset), share


def share_to_hold_out(dataset: Dataset) -> float:
    """A fifth, or as many tenths more as give validation a photo for each class; nothing is held out where it has a folder."""
    photos, classes = len(dataset.training), len(dataset.classes) if dataset.held_out else 0
    return next((share for share in (FIFTH, 0.3, 0.4, 0.5) if math.ceil(share * photos) >= classes), FIFTH)


def side_for(split: Split) -> int:
    """The largest side that the photos' median short side still fills."""
    rows = np.linspace(0, len(split) - 1, min(LOOKS, len(split))).astype(int)
    shortest = np.median([min(photo_size(split.paths[row])) for row in rows])
    return max((side for side in SIDES if side <= shortest), default=SIDES[0])
