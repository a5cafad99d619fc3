"""What a study is: arms as data, each a whole config under a name, and the one that the others are held against."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kit.config.override import override
from kit.config.schema import Config

Changes = dict[str, Any]  # "section.field": value


@dataclass(frozen=True)
class Arm:
    """says: what is different about it, in a few words. published: what its source reports, where there is one.

    teacher, begins: other arms, whose student of the same seed teaches this one, or is what this one has in place of training. against:
    the arm that it is held against in place of the study's reference. curve: the line of the figure that it is a point of.
    """

    name: str
    config: Config
    says: str
    published: str = ""
    teacher: str = ""
    begins: str = ""
    against: str = ""
    curve: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must have run before."""
        return tuple(name for name in (self.teacher, self.begins) if name)


@dataclass(frozen=True)
class Study:
    """arms: one that others need comes before them. reference: the arm that the others are held against. reduced: the config as it runs on
    a small machine; reduction: that in words. remarks: what explains the figures, a paragraph each. paced: whether the table has the time
    of an epoch; layers: whether the document has the networks' layer tables. page: a document above theirs whose place `<!-- study NAME
    -->` has the table, too."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    reference: str
    reduced: Callable[[Config], Config]
    reduction: str
    remarks: tuple[str, ...] = ()
    paced: bool = False
    layers: bool = False
    page: str = ""

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def replaced(config: Config, changes: Changes) -> Config:
    """The config with fields replaced as by `--set`, and validated as a whole. A section that is replaced is given as a dictionary."""
    return override(config, [f"{path}={json.dumps(value)}" for path, value in changes.items()])


def kept_answers(config: Config) -> Config:
    """The teacher's answers kept for the other arms that draw the same views: logits rounded to float16 is all that changes."""
    return replaced(config, {"teacher.store": "float16"}) if config.taught else config


def proving_ground(epochs: int) -> Callable[[Config], Config]:
    """96 px, at which the regrouped photos' teacher was trained, and fewer epochs."""

    def reduce(config: Config) -> Config:
        shorter = {"data.image_size": 96, "train.epochs": epochs, "train.patience": None}
        if config.prune:
            shorter["prune.finetune_epochs"] = min(config.prune.finetune_epochs, max(1, epochs // 4))
        return replaced(config, shorter)

    return reduce
