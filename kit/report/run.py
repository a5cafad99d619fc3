"""A run's folder as the page reads it: run.json, the lines of its epochs, the answers, the networks that it left."""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kit.answers import NONE, Answers, read_answers
from kit.compress.fold import fold, fold_shape
from kit.compress.lowrank import Ranks, factor_shape
from kit.compress.pack import Packed, unpack
from kit.config.schema import Config
from kit.config.stages import kind_of, steps_of, up_to_pruning
from kit.console import Log
from kit.errors import KitError
from kit.models.cost import count_macs
from kit.models.library import shapes_on
from kit.models.students import build_student, count_parameters, widths_of
from kit.models.widths import new_student
from kit.names import ANSWERS, METRICS, STUDENT, TIMING
from kit.session import read_by_stage, read_record
from kit.train.checkpoint import saved_in, whole

STUDENT_STAGES = {
    "distil": "distilled",
    "prune": "pruned",
    "finetune": "fine-tuned",
    "lowrank": "at low rank",
    "qat": "trained quantized",
    "quantize": "packed",
}
LATER = {"lowrank": "low rank", "qat": "quantized"}  # stages that few runs have, as a curve marks them


@dataclass(frozen=True)
class Stage:
    """A network of the run. accuracy: None of a teacher that has learnt from the validation photos. macs: multiplications of one photo.
    size: bytes of its weights, as float32 until they are packed."""

    key: str
    name: str
    accuracy: float | None
    parameters: int
    macs: int
    size: int
    seconds: float | None

    @property
    def kind(self) -> str:
        return kind_of(self.key)


@dataclass(frozen=True)
class Run:
    """record: run.json. histories, timing: a line an epoch, by stage. answers: NONE where none were kept."""

    out: Path
    record: dict[str, Any]
    config: Config
    histories: dict[str, list[dict[str, Any]]]
    timing: dict[str, list[dict[str, Any]]]
    answers: Answers

    @property
    def name(self) -> str:
        return self.out.resolve().name

    @cached_property
    def packed(self) -> Packed | None:
        try:
            return unpack(self.out / STUDENT)
        except KitError:
            return None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.answers.classes or (self.packed.classes if self.packed else ())

    @cached_property
    def student_stages(self) -> dict[str, str]:
        """{stage: its name in words}, in the order of the run; the steps of pruning are numbered but for the last."""
        prune = self.config.prune
        words = {stage: STUDENT_STAGES[kind_of(stage)] for stage in (*up_to_pruning(prune), "lowrank", "qat", "quantize")}
        numbered = enumerate(steps_of(prune), 1) if prune and prune.steps > 1 else ()
        return words | {stage: f"{words[stage]}, step {i}" for i, step in numbered for stage in (step.prune, step.finetune)}

    @property
    def trained(self) -> list[str]:
        """The student's stages that have epochs, in order."""
        return [stage for stage in self.student_stages if self.histories.get(stage)]

    @cached_property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Of the stages' students, as far as the run is."""
        student, classes = self.config.student, len(self.classes)
        with torch.device(shapes_on(student.name)):
            latest = widths_of(new_student(student, classes))
        found = {}
        for stage in self.student_stages:
            found[stage] = latest = tuple(self.record["stages"].get(stage, {}).get("widths", ())) or latest
        return found | ({"quantize": widths_of(self.packed.student)} if self.packed else {})

    @property
    def ranks(self) -> Ranks:
        """Of the layers that are factorised, from the stage that does it on."""
        return self.record["stages"].get("lowrank", {}).get("ranks", {})

    @cached_property
    def stages(self) -> list[Stage]:
        """The teacher and the students that there are, in order."""
        entries, found = self.record["stages"], []
        if "accuracy" in (teacher := entries.get("teacher", {})) and self.classes:
            accuracy, parameters = None if teacher.get("seen") else teacher["accuracy"], teacher["parameters"]
            found.append(Stage("teacher", "teacher", accuracy, parameters, teacher["macs"], 4 * parameters, teacher.get("seconds")))
        for key, name in self.student_stages.items():
            entry = entries.get(key, {})
            if (accuracy := entry.get("accuracy", self.best_so_far(key))) is None or not self.classes:
                continue
            ranks = tuple((layer, tuple(its)) for layer, its in self.ranks.items()) if key in ("lowrank", "qat", "quantize") else ()
            student, side = self.config.student.name, self.config.data.image_size
            parameters, macs = cost_of_student(student, self.widths[key], len(self.classes), ranks, side)
            half_done = entry.get("state") == "half done"
            size = entry.get("bytes", 4 * parameters)
            found.append(Stage(key, f"{name}, so far" if half_done else name, accuracy, parameters, macs, size, entry.get("seconds")))
        return found

    def best_so_far(self, stage: str) -> float | None:
        return max((line["accuracy"] for line in self.histories.get(stage, []) if "accuracy" in line), default=None)

    @cached_property
    def logits(self) -> dict[str, Any]:
        """The answers of the stages that are shown, in order."""
        kept = self.answers.logits
        return {key: kept[key] for key in ("teacher", *self.student_stages) if key in kept}

    @cached_property
    def weights(self) -> list[tuple[str, Tensor, Tensor]]:
        """(name, before, after packing) of each folded weight. Before are the checkpoint's that was packed: the nearest one; there may be
        none, since a provisional hand-in may pack a copy that was pruned for it."""
        if self.packed is None:
            return []
        students = [saved for saved in saved_in(self.out) if saved.stage != "teacher"]
        bests = [content["state"]["best"]["weights"] for _, content in whole(reversed(students), Log())]
        found = [pairs for weights in bests if weights and (pairs := self.beside(self.packed, weights))]
        return min(found, key=lambda pairs: sum(float((after - before).square().sum()) for _, before, after in pairs), default=[])

    def beside(self, packed: Packed, weights: dict[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
        """Empty where a student of other widths was packed. Weights that were trained on a grid are folded already."""
        after = packed.student.state_dict()
        if any(name.endswith(".step") for name in weights):
            shown = {name: values for name, values in after.items() if values.ndim >= 2}
            alike = all(name in weights and weights[name].shape == values.shape for name, values in shown.items())
            return [(name, weights[name], values) for name, values in shown.items()] if alike else []
        with torch.random.fork_rng(devices=[]):
            student = build_student(self.config.student.name, self.widths["quantize"], len(self.classes))
        if packed.ranks:
            student = factor_shape(fold_shape(student), packed.ranks)
        shapes = {name: values.shape for name, values in student.state_dict().items()}
        if shapes != {name: values.shape for name, values in weights.items()}:
            return []
        student.load_state_dict(weights)
        return [(name, values, after[name]) for name, values in fold(student).state_dict().items() if values.ndim >= 2]


@cache  # most of a run's students are of one shape
def cost_of_student(
    name: str, widths: tuple[int, ...], classes: int, ranks: tuple[tuple[str, tuple[int, ...]], ...], side: int
) -> tuple[int, int]:
    with torch.device(shapes_on(name)):
        return cost_of(factor_shape(build_student(name, widths, classes), dict(ranks)), side)


def cost_of(network: nn.Module, side: int) -> tuple[int, int]:
    """(parameters, multiplications of one photo)."""
    return count_parameters(network), count_macs(network, side).total()


def read_run(out: Path) -> Run:
    """A run's folder.

    Raises:
        KitError: it is none, or nothing has been learned in it yet.
    """
    record = read_record(out, Log()) if out.is_dir() else None
    if record is None:
        raise KitError(f"{out} holds no run.json that is whole. Give the folder of a run, the --out of `kit run`.")
    try:
        config = Config.model_validate(record["config"])
    except ValidationError:
        raise KitError(f"{out} was written by another version of the kit. Draw its page with that version.") from None
    scores = () if config.train.final_fit else ("accuracy",)
    histories = read_by_stage(out / METRICS, "epoch", "step", "loss", *scores)
    learned = any(entry.get("epoch") for entry in record["stages"].values())  # of another run's student nothing may be left to learn
    if not any(histories.values()) and (learned or "submission" not in record):
        raise KitError(
            f"{out} holds no metrics.jsonl with an epoch in it: nothing has been learned there yet. Run the same `kit run` command again, "
            "or fetch metrics.jsonl beside its run.json."
        )
    timing = read_by_stage(out / TIMING, "epoch", "session")
    return Run(out, record, config, histories, timing, read_answers(out / ANSWERS) or NONE)
