"""The real command, once it has loaded torch, killed at seeded moments until it is done, lap after lap; each lap must end as the run that
was never killed."""

import random
import re
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from warm import Command

from kit.train.checkpoint import saved_in

# A stage, the line that says that it has begun, and how long after that line it may still be at work.
STAGES = {
    "photos": (r"\S+ \w+ on CPU", 3.0),
    "teacher": (r"teacher: ", 2.0),
    "distil": (r"distil[: ]", 2.0),
    "prune": (r"distil: best", 0.25),
    "finetune": (r"finetune[: ]", 0.9),
    "quantize": (r"finetune: best", 0.12),
    "submit": (r"packed", 0.04),
}
WORDS = ("run", "sample", "--tiny", "--set", "competition=any", "--set", "teacher.train.epochs=1")
WORDS += ("--data", "photos", "--out", "out", "--cache", "cache")


def results(out: Path) -> dict:
    """What must repeat bit for bit. A stage's result is named by its sha256, of weights, averages and optimiser."""
    files = {name: (out / name).read_bytes() for name in ("student.kit", "submission.csv", "metrics.jsonl")}
    return files | {"stages": sorted(saved.path.name for saved in saved_in(out) if saved.done)}


@dataclass
class Chaos:
    """place: holds photos/. words: of the command. moments: where the seed's numbers come from. wanted: what each lap must end with."""

    place: Path
    words: tuple[str, ...]
    moments: random.Random
    wanted: dict
    kills: Counter = field(default_factory=Counter)
    laps: int = 0

    def kill(self, stage: str) -> None:
        """One kill in this stage, in as many laps as it takes to get there."""
        while True:
            if stage == "photos":
                shutil.rmtree(self.place / "cache", ignore_errors=True)
            process = self.start()
            line, span = STAGES[stage]
            if any(re.match(line, said) for said in iter(process.stdout.readline, "")):
                time.sleep(self.moments.uniform(0, span))
            process.kill()
            code, said = process.end()
            if code == -signal.SIGKILL:
                self.kills[stage] += 1
                return
            self.end_lap(code, said)

    def start(self) -> Command:
        """A session. What is harmless differs from one to the next: the saving interval, the workers, and the threads it is offered."""
        seconds, workers = self.moments.choice([0, 0.05, 0.3]), self.moments.choice([0, 1, 2])
        begun = bool(saved_in(self.place / "out"))
        threads = self.moments.choice([1, 2]) if begun else 1
        words = [*self.words, "--set", f"train.save_seconds={seconds}", "--set", f"data.workers={workers}"]
        words += ["--set", f"teacher.train.save_seconds={seconds}"]
        return Command(self.place, *words, threads=threads)

    def end_lap(self, code: int, said: str) -> None:
        file = self.place / "out" / "log.txt"
        log = file.read_text() if file.is_file() else ""
        assert code == 0, log[-3000:] + said
        assert results(self.place / "out") == self.wanted, log[-3000:]
        assert (self.place / "out" / "report.html").is_file(), log[-3000:]
        self.laps += 1
        shutil.rmtree(self.place / "out")

    def finish(self) -> None:
        """Let the lap end."""
        self.end_lap(*self.start().end())
