"""The lines of metrics.jsonl for TensorBoard too, where it is installed; where it is not, nothing is said or written."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
WITHOUT_TENSORFLOW = "tensorboard.compat.notf"  # where this can be imported, TensorBoard does not import TensorFlow, which takes 10 s


class Events:
    """`tensorboard/<stage>/` in a run's folder. A session that goes on takes back what one before it wrote from there on."""

    def __init__(self, out: Path):
        self.folder = out / FOLDER
        self.writers: dict[str, Any] = {}
        self.there = importlib.util.find_spec("tensorboard") is not None

    def add(self, stage: str, line: dict[str, Any]) -> None:
        """An epoch's losses and accuracy. Raises OSError where they can't be written."""
        if not self.there:
            return
        if stage not in self.writers:
            sys.modules.setdefault(WITHOUT_TENSORFLOW, types.ModuleType(WITHOUT_TENSORFLOW))
            from torch.utils.tensorboard import SummaryWriter  # here: only a run writes events

            self.writers[stage] = SummaryWriter(self.folder / stage, purge_step=line["epoch"])
        for name, value in line.items():
            if name not in ("epoch", "step"):
                self.writers[stage].add_scalar(name, value, line["epoch"])
        self.writers[stage].flush()
