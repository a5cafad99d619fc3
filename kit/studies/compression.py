"""What each way of making the recipe's student smaller costs, and what a smaller student costs that was not made smaller.

All that is compressed begins with `record`'s student of the same seed, as it was before Muon.
"""

from typing import Any

from kit.config.schema import Config
from kit.studies.record import adamw, stored
from kit.studies.screens import PHOTOS
from kit.studies.study import Arm, Study, proving_ground, replaced

EPOCHS = 40  # of the whole student
LATER = 10  # of training on the grid, and after the wider student is pruned
TWICE = 120_000  # parameters of the wider one
CURVE = (1, 5, 20)  # epochs after slimming to a half


def slimmed(epochs: int, **more: Any) -> Config:
    half = {"keep": 0.5, "gamma_penalty": 0.0, "finetune_epochs": epochs, "finetune_lr": 4e-3}
    return stored({"prune": half | more})


def compression() -> Study:
    later = {"train_epochs": LATER, "train_lr": 2e-3}
    by_weights = {"pack.calibration": 0}
    bits = [
        *[
            Arm(f"{n}-bit", stored({"pack.bits": n}), f"the recipe's student before Muon, rounded to {n} bits", begins="record")
            for n in (6, 4, 3)
        ],
        *[
            Arm(f"{n}-bit-weights", stored({"pack.bits": n} | by_weights), f"{n} bits, rounded by the weights alone", begins="record")
            for n in (8, 6, 4, 3)
        ],
        *[
            Arm(
                f"{n}-bit-trained",
                stored({"pack.bits": n, "quantize": later}),
                f"{LATER} more epochs on the grid of {n} bits; packed is the better of that and of {n}-bit",
                begins="record",
            )
            for n in (6, 4, 3)
        ],
    ]
    ways: dict[str, tuple[dict[str, Any], str]] = {
        "slim": ({}, "slimming to a half"),
        "magnitude": ({"criterion": "magnitude"}, "pruned by magnitude to a half"),
        "random": ({"criterion": "random"}, "pruned at random to a half"),
        "scratch": ({"scratch": True, "finetune_lr": adamw().train.lr}, "slimming's architecture with new weights, at the recipe's rate"),
    }
    curves = [
        Arm(
            f"{way}-{epochs}",
            slimmed(epochs, **more),
            f"{says}, {epochs} epoch{'s' * (epochs > 1)} of distillation after",
            begins="record",
            curve=way,
        )
        for way, (more, says) in ways.items()
        for epochs in CURVE
    ]
    arms = (
        Arm("record", stored({}), "the recipe's student before Muon, 8 bits"),
        *bits,
        Arm("slim-course", slimmed(0), "slimming to a half as the course does it: batch norm's averages alone are fitted", begins="record"),
        *curves,
        Arm(
            "wider-pruned",
            stored({"student.parameters": TWICE, "prune": {"keep": 1.0, "finetune_epochs": LATER, "finetune_lr": 4e-3}}),
            f"twice as many parameters for {EPOCHS - LATER} epochs, pruned to the limit, {LATER} more",
        ),
    )
    question = (
        "What do fewer bits and fewer channels cost the student of `record`, and is a wider student that is pruned to the limit better "
        "than one of the limit's size, at equal epochs?"
    )
    return Study("compression", question, arms, "record", reduced, f"96 px, {EPOCHS} epochs, {PHOTOS}")


def reduced(config: Config) -> Config:
    """As `record` is, except that a wider student shares the epochs with what comes after."""
    epochs = EPOCHS - LATER if config.student.parameters else EPOCHS
    smaller = proving_ground(epochs)(config)
    return replaced(smaller, {"prune": config.prune.model_dump()}) if config.prune else smaller
