"""What each network of a run answers to the validation photos: `validation.npz`, from which the page is drawn again without a photo.

The teacher and the packed student are looked at anyway, and their stages leave their logits here; the others follow at a session's end.
"""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kit.data.cache import Photos
from kit.files import write_durably


@dataclass
class Answers:
    """N photos, K classes. photos: their digest. labels: int64 [N]. logits: stage → float32 [N, K]. of: stage → digest of the weights that
    answered. thumbnails: row → JPEG, of the surest right answers and the worst mistakes."""

    photos: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[int, bytes] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        meta = {"photos": self.photos, "classes": self.classes, "names": self.names, "of": self.of}
        arrays = {f"logits {stage}": answer for stage, answer in self.logits.items()}
        arrays |= {f"thumbnail {row}": np.frombuffer(jpeg, np.uint8) for row, jpeg in self.thumbnails.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, meta=np.array(json.dumps(meta)), labels=self.labels, **arrays)
        write_durably(file, buffer.getvalue())


NONE = Answers("", (), (), np.zeros(0, np.int64))


def read_answers(file: Path) -> Answers | None:
    """The answers in a file; None where there are none, or what is there is not what was written: they can be had again."""
    try:
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            meta, labels = json.loads(str(arrays["meta"])), arrays["labels"]
            logits = {name.partition(" ")[2]: arrays[name] for name in arrays.files if name.startswith("logits ")}
            thumbnails = {int(name.partition(" ")[2]): arrays[name].tobytes() for name in arrays.files if name.startswith("thumbnail ")}
        return Answers(meta["photos"], tuple(meta["classes"]), tuple(meta["names"]), labels, logits, meta["of"], thumbnails)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None


def answers_to(file: Path, photos: Photos, classes: tuple[str, ...]) -> Answers:
    """Those in `file` where they are to these photos, else none yet."""
    kept = read_answers(file)
    if kept and (kept.photos, kept.classes) == (photos.digest, classes):
        return kept
    return Answers(photos.digest, classes, photos.names, photos.labels)


def has_answer(file: Path, photos: Photos, stage: str, weights: str) -> bool:
    kept = read_answers(file)
    return kept is not None and kept.photos == photos.digest and kept.of.get(stage) == weights


def keep_answer(file: Path, photos: Photos, classes: tuple[str, ...], stage: str, weights: str, logits: np.ndarray) -> None:
    """weights: the digest of what answered."""
    answers = answers_to(file, photos, classes)
    answers.logits[stage], answers.of[stage] = logits, weights
    answers.save(file)
