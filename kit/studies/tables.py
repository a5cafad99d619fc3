"""Tables and figures of a study, made of its journal alone: mean and spread over seeds, and whether an arm is told apart from the
reference."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kit.files import make_folder, write_durably
from kit.studies.journal import Entry
from kit.studies.study import Study

SURE = 0.05  # Welch's test between two arms' seeds


@dataclass(frozen=True)
class Row:
    """An arm's figures. accuracies: of its seeds, in order."""

    arm: str
    says: str
    published: str
    accuracies: tuple[float, ...]
    parameters: int | None
    bytes: int | None
    seconds: float | None
    failed: tuple[str, ...]

    @property
    def mean(self) -> float | None:
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for fewer than two."""
        return float(pd.Series(self.accuracies).std()) if len(self.accuracies) > 1 else None


def rows(study: Study, entries: list[Entry], setting: str) -> list[Row]:
    """A row for each arm that has ended at least once, the best first."""
    made = []
    for arm in study.arms:
        newest = {entry["seed"]: entry for entry in entries if entry["arm"] == arm.name and entry["setting"] == setting}
        done = [newest[seed] for seed in sorted(newest) if newest[seed]["state"] == "done"]
        failed = tuple(entry["error"] for entry in newest.values() if entry["state"] == "failed")
        if not done and not failed:
            continue
        of = lambda name: done[0][name] if done else None  # noqa: B023, E731
        seconds = sum(entry["seconds"] for entry in done) / len(done) if done else None
        accuracies = tuple(entry["validation_accuracy"] for entry in done)
        made.append(Row(arm.name, arm.says, arm.published, accuracies, of("parameters"), of("bytes"), seconds, failed))
    return sorted(made, key=lambda row: -(row.mean or 0))


def apart(row: Row, reference: Row) -> str:
    """How an arm stands to the reference: the difference in points, and whether their seeds tell them apart."""
    if row is reference or row.mean is None or reference.mean is None:
        return "reference" if row is reference else ""
    points = f"{100 * (row.mean - reference.mean):+.2f}"
    if min(len(row.accuracies), len(reference.accuracies)) < 2:
        return f"{points} (one seed)"
    from scipy.stats import ttest_ind

    separated = ttest_ind(row.accuracies, reference.accuracies, equal_var=False).pvalue < SURE
    return points if separated else f"{points} (unseparated)"


def frame(study: Study, made: list[Row]) -> pd.DataFrame:
    reference = next((row for row in made if row.arm == study.reference), None)
    return pd.DataFrame(
        {
            "arm": row.arm,
            "what": row.says,
            "published": row.published,
            "parameters": f"{row.parameters:,}" if row.parameters else "",
            "bytes": f"{row.bytes:,}" if row.bytes else "",
            "accuracy": spelled(row),
            "seeds": " ".join(f"{accuracy:.4f}" for accuracy in row.accuracies),
            "against the reference": apart(row, reference) if reference else "",
            "minutes": f"{row.seconds / 60:.1f}" if row.seconds else "",
        }
        for row in made
    )


def spelled(row: Row) -> str:
    if row.mean is None:
        return f"failed: {row.failed[-1]}"
    return f"{row.mean:.4f}" + (f" ± {row.spread:.4f}" if row.spread is not None else "")


def markdown(study: Study, entries: list[Entry], setting: str) -> str:
    """The document of a study."""
    table = frame(study, rows(study, entries, setting))
    table = table.loc[:, (table != "").any()]
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in table.to_numpy()]
    done = [entry for entry in entries if entry["setting"] == setting and entry["state"] == "done"]
    machines = sorted({entry["device"] for entry in done})
    commits = list(dict.fromkeys(entry["commit"][:12] for entry in done))
    reduction = {"reduced": f"Reduced to {study.reduction}.", "full": "In full.", "tiny": "A rehearsal: these figures mean nothing."}[
        setting
    ]
    return "\n".join(
        [
            f"# {study.name}",
            "",
            study.question,
            "",
            f"{reduction} Validation accuracy, mean ± standard deviation over seeds; the reference is `{study.reference}`. An arm is "
            f"*unseparated* where Welch's test does not tell its seeds from the reference's (p ≥ {SURE}).",
            "",
            *lines,
            "",
            f"Device: {', '.join(machines)}. Commits: {', '.join(commits)}. Made by `kit study {study.name}` from its journal alone.",
            "",
        ]
    )


def write(study: Study, entries: list[Entry], setting: str, folder: Path) -> list[Path]:
    """The document, the table as three-line LaTeX and as CSV, and the figure as SVG and PNG."""
    made = rows(study, entries, setting)
    if not made:
        return []
    table = frame(study, made)
    files = {
        f"{study.name}.md": markdown(study, entries, setting).encode(),
        f"{study.name}.tex": table.to_latex(index=False, escape=True).encode(),
        f"{study.name}.csv": table.to_csv(index=False, lineterminator="\n").encode(),
    }
    make_folder(folder)
    for name, content in files.items():
        write_durably(folder / name, content)
    return [folder / name for name in files] + draw(study, made, folder)


def draw(study: Study, made: list[Row], folder: Path) -> list[Path]:
    """Bars with error bars, the best above; the same picture from the same journal."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = study.name
    from matplotlib import pyplot

    bars = [row for row in reversed(made) if row.mean is not None]
    if not bars:
        return []
    figure, axes = pyplot.subplots(figsize=(7, 0.8 + 0.32 * len(bars)), layout="constrained")
    colours = ["#b45309" if row.arm == study.reference else "#2563eb" for row in bars]
    axes.barh([row.arm for row in bars], [row.mean for row in bars], xerr=[row.spread or 0 for row in bars], color=colours, capsize=3)
    axes.set_xlim(left=max(0, min(row.mean for row in bars) - 0.1))
    axes.set_xlabel("validation accuracy")
    axes.spines[["top", "right"]].set_visible(False)
    files = [folder / f"{study.name}.{kind}" for kind in ("svg", "png")]
    for file in files:
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return files
