"""What a data set comes to: photos and their labels, split by split, and shares of them that keep each class."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np

from kit.errors import KitError

NUMBER = re.compile(r"-?\d+(\.\d+)?")  # a class folder's name that is one; a table's labels may be 1.0, 2.0
KINDS = 4  # of strange files that are named


@dataclass(frozen=True)
class Split:
    """Photos in the order of their file names, those of class folders folder by folder. labels: int64 [N], -1 for a photo without one."""

    name: str
    paths: tuple[Path, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: np.ndarray, name: str | None = None) -> "Split":
        return Split(name or self.name, tuple(self.paths[i] for i in rows), self.labels[rows])

    def joined(self, other: "Split") -> "Split":
        """Both, under this one's name."""
        return Split(self.name, self.paths + other.paths, np.concatenate([self.labels, other.labels]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the files; with their folders' where folders have photos of one name."""
        bare = tuple(path.name for path in self.paths)
        return bare if len(set(bare)) == len(bare) else tuple(f"{path.parent.name}/{path.name}" for path in self.paths)

    @property
    def labelled(self) -> bool:
        """Whether any photo has a label."""
        return bool((self.labels >= 0).any())

    def per_class(self, classes: int) -> np.ndarray:
        return counts_of(self.labels, classes)


def counts_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many photos each class has, int64 [classes]; -1 is none."""
    return np.bincount(labels[labels >= 0], minlength=classes)


@dataclass(frozen=True)
class Dataset:
    root: Path
    classes: tuple[str, ...]
    training: Split
    validation: Split
    evaluation: Split
    held_out: bool = False  # validation was taken from training
    unlabelled: Split | None = None  # more photos of the kind of training's
    strange: tuple[Path, ...] = ()  # files beside the photos that are none the kit reads
    empty: tuple[Path, ...] = ()  # folders of training that hold no photo, and are no class
    deeper: tuple[Path, ...] = ()  # folders of photos below a class's

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        return self.training, self.validation, self.evaluation

    def counts(self) -> str:
        """One line a split: its size and its photos per class; then classes without any to learn from, numbers that are others in the
        CSV, and what is passed over."""
        lines = []
        for split in self.splits:
            per_class = "unlabelled"
            if split.labelled:
                per_class = "per class " + " ".join(map(str, split.per_class(len(self.classes))))
                per_class += f", {n:,} unlabelled" if (n := int((split.labels < 0).sum())) else ""
            lines.append(f"{split.name:<10} {len(split):>6,} photo{'s' if len(split) != 1 else ''}, {per_class}")
        if self.held_out:
            lines[1] += " (held out of training)"
        for split, so in ((self.training, "is the archive unpacked whole?"), (self.validation, "no accuracy here tells of it")):
            if missing := [name for name, n in zip(self.classes, split.per_class(len(self.classes)), strict=True) if not n]:
                lines.append(f"no {split.name} photo of {', '.join(missing)}: {so}")
        if all(map(NUMBER.fullmatch, self.classes)) and [*map(Decimal, self.classes)] != [*range(len(self.classes))]:
            first, last = self.classes[0], self.classes[-1]
            lines.append(f"the CSV counts classes from 0: there the folder {first} is 0, {last} is {len(self.classes) - 1}")
        if self.empty:
            lines.append(f"no class, since no photo lies in it: {', '.join(map(str, self.empty))}")
        if self.deeper:
            lines.append(f"folders of photos below a class's are passed over: {len(self.deeper):,}, such as {self.deeper[0]}")
        if self.strange:
            lines.append(passed_over(self.strange))
        return "\n".join(lines)


def passed_over(strangers: Sequence[Path]) -> str:
    kinds = Counter(path.suffix.lower() or path.name for path in strangers).most_common(KINDS)
    which = f" ({', '.join(f'{number:,} {kind}' for kind, number in kinds)})" if len(kinds) > 1 else ""
    return f"passed over, since they are no photos of a kind that is read: {len(strangers):,}{which}, such as {strangers[0]}"


def without_labels(name: str, paths: Sequence[Path]) -> Split:
    return Split(name, tuple(paths), np.full(len(paths), -1))


def subset(dataset: Dataset, share: float, seed: int) -> Dataset:
    """A repeatable share of every split, stratified by class where there are labels."""
    if share == 1:
        return dataset
    splits = [*dataset.splits, *([dataset.unlabelled] if dataset.unlabelled else [])]
    parts = {s.name: s.take(stratify(s, 1 - share, seed, "--subset")[0]) for s in splits}
    return replace(dataset, **parts)  # type: ignore[arg-type]  # splits alone, by their names


def stratify(split: Split, away: float, seed: int, asked_by: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay and rows that go, each class alike."""
    from sklearn.model_selection import train_test_split  # here: it takes a second to import, and most runs divide nothing

    labels, counts = np.unique(split.labels[split.labels >= 0], return_counts=True)
    if (counts == 1).any():
        lone = split.paths[int(np.flatnonzero(split.labels == labels[counts == 1][0])[0])]
        without = "leave out --subset" if asked_by == "--subset" else "add a validation folder"
        raise KitError(
            f"{lone} is the only {split.name} photo of its class, which can't be divided as {asked_by} asks: add others, or {without}."
        )
    try:
        alike = split.labels if split.labelled else None
        seed %= 2**32  # numpy's take no other; torch's and ours any
        stay, go = train_test_split(np.arange(len(split)), test_size=away, random_state=seed, stratify=alike)
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise KitError(
            f"The {split.name} split's {len(split)} photos can't be divided as {asked_by} asks: {reason}. Ask for another share."
        ) from None
    return np.sort(stay), np.sort(go)
