"""What a study is: arms as data, each a whole config under a name, and the one that the others are held against."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kit.config.schema import Config

Changes = dict[str, Any]  # "section.field": value


@dataclass(frozen=True)
class Arm:
    """says: what is different about it, in a few words. published: what its source reports, where there is one."""

    name: str
    config: Config
    says: str
    published: str = ""


@dataclass(frozen=True)
class Study:
    """reference: the arm that the others are held against. reduced: the config as it runs on a small machine; reduction: that in words."""

    name: str
    question: str
    arms: tuple[Arm, ...]
    reference: str
    reduced: Callable[[Config], Config]
    reduction: str


def replaced(config: Config, changes: Changes) -> Config:
    """The config with fields replaced, and validated as a whole. A section that is replaced is given as a model or a dictionary."""
    value = config.model_dump()
    for path, new in changes.items():
        *parents, last = path.split(".")
        place = value
        for name in parents:
            place = place[name]
        if last not in place:
            raise KeyError(f"{path} is no field of a config")
        place[last] = new
    return Config.model_validate(value)


def proving_ground(epochs: int) -> Callable[[Config], Config]:
    """96 px, at which the regrouped photos' teacher was trained, and fewer epochs."""

    def reduce(config: Config) -> Config:
        shorter = {"data.image_size": 96, "train.epochs": epochs, "train.patience": None}
        if config.prune:
            shorter["prune.finetune_epochs"] = min(config.prune.finetune_epochs, max(1, epochs // 4))
        return replaced(config, shorter)

    return reduce
