"""The studies, by name."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

from kit.config.recipes import boss, medium, simple
from kit.errors import KitError
from kit.studies.record import finals, screen
from kit.studies.study import Arm, Study, proving_ground


def hw13() -> Study:
    """Seed 002's three solutions."""
    arms = (
        Arm("simple", simple(), "the course's student and labels alone", "0.45807"),
        Arm("medium", medium(), "distilled, α = 0.5, T = 20", "0.75202"),
        Arm("boss", boss(), "layer by layer, 99,891 parameters", "0.82687"),
    )
    question = (
        "The published solutions of NTU ML2023 HW13, as their author ran them. The published figures are Kaggle's public scores on Food-11 "
        "after up to 700 epochs at 224 px."
    )
    return Study(
        "hw13", question, arms, "medium", proving_ground(10), "96 px, 10 epochs, photos of Food-101 regrouped into Food-11's classes"
    )


STUDIES: dict[str, Callable[[], Study]] = {"hw13": hw13, "record": finals, "record-screen": screen}


def find_study(name: str) -> Study:
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=3) or STUDIES
        raise KitError(f"There is no study {name!r}. Nearest: {', '.join(near)}.")
    return STUDIES[name]()


def choose(study: Study, names: Sequence[str]) -> Study:
    """The study with some of its arms; all of them for no names."""
    known = {arm.name: arm for arm in study.arms}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise KitError(f"The study {study.name!r} has no arm {name!r}. Nearest: {', '.join(near)}.")
    return replace(study, arms=tuple(known[name] for name in names) or study.arms)
