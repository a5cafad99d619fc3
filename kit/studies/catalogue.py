"""The studies, by name."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from kit.config.recipes import boss, medium, simple
from kit.errors import KitError, nearest
from kit.studies.cifar_slim import cifar_slim
from kit.studies.compression import compression
from kit.studies.few_photos import few_photos
from kit.studies.hw7_architectures import hw7_architectures
from kit.studies.hw7_pipeline import hw7_pipeline
from kit.studies.hw7_report import hw7_report
from kit.studies.record import ablation, finals, long, sides
from kit.studies.screens import screen, second_screen
from kit.studies.study import Arm, Study, proving_ground, replaced


def hw13() -> Study:
    """Seed 002's three solutions."""
    arms = (
        Arm("simple", simple(), "the course's student and labels alone", "0.45807"),
        Arm("medium", medium(), "distilled, α = 0.5, T = 20", "0.75202"),
        Arm("boss", boss(), "layer by layer, 99,891 parameters", "0.82687"),
        *(
            Arm(
                f"boss-decoding-{workers}",
                replaced(boss(), {"data.feed": "decode", "data.workers": workers}),
                f"JPEGs decoded and augmented anew each epoch, by {workers} worker{'s' * (workers > 1)}",
                against="boss",
            )
            for workers in (1, 2)
        ),
    )
    question = (
        "The published solutions of NTU ML2023 HW13, as their author ran them, and what loader workers are worth. The published figures "
        "are Kaggle's public scores on Food-11 after up to 700 epochs at 224 px; an epoch of boss took 43.7 s, and a pass over the photos "
        "alone 21 s without loader workers and 2.3 s with 16."
    )
    reduction = "96 px, 10 epochs, photos of Food-101 regrouped into Food-11's classes"
    remarks = (
        "**What agrees, what doesn't.** boss is ahead of medium by about as much as published. medium is not told from simple: as "
        "published, simple had ten epochs and medium up to seven hundred; here both have ten.",
        "**Loader workers.** Both arms that decode anew get the same batches, and so the same weights, from one worker as from two. On two "
        "cores an epoch takes longer than with the kit's decoded photos, and equally long with either: workers and steps share the cores. "
        "A loader without workers is none of the kit's; the feeds alone are measured in [performance.md](../performance.md). The published "
        "time is a GPU's at 224 px and doesn't compare with that of two cores at 96 px; what a GPU makes of the recipe stands there, too.",
    )
    return Study("hw13", question, arms, "medium", proving_ground(10), reduction, remarks, paced=True)


STUDIES: dict[str, Callable[[], Study]] = {
    "hw7-architectures": hw7_architectures,
    "hw7-pipeline": hw7_pipeline,
    "hw13": hw13,
    "cifar-slim": cifar_slim,
    "hw7-report": hw7_report,
    "record": finals,
    "record-long": long,
    "record-ablation": ablation,
    "record-sides": sides,
    "compression": compression,
    "few-photos": few_photos,
    "record-screen": screen,
    "record-second": second_screen,
}


def find_study(name: str) -> Study:
    if name not in STUDIES:
        raise KitError(f"There is no study {name!r}. Nearest: {nearest(name, STUDIES)}.")
    return STUDIES[name]()


def choose(study: Study, names: Sequence[str]) -> Study:
    """The study with some of its arms and those that they need; all of them for no names."""
    known, wanted = {arm.name: arm for arm in study.arms}, set()
    for name in names:
        if name not in known:
            raise KitError(f"The study {study.name!r} has no arm {name!r}. Nearest: {nearest(name, known)}.")
    for arm in reversed(study.arms):
        if arm.name in names or arm.name in wanted:
            wanted |= {arm.name, *arm.needs}
    return replace(study, arms=tuple(arm for arm in study.arms if arm.name in wanted) or study.arms)
