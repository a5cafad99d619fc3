"""A study's document, tables and figures as files, made of its journal and of the networks that its configs name."""

from pathlib import Path

import pandas as pd

from kit.files import fill_place, find_place, make_folder, write_durably
from kit.models.cost import layer_rows
from kit.models.students import count_parameters
from kit.studies import figures
from kit.studies.journal import Entry
from kit.studies.networks import named, networks_of
from kit.studies.study import Study
from kit.studies.tables import SURE, Row, agreement, frame, noise_of, packing, rows, steps

SETTINGS = {"full": "In full.", "tiny": "A rehearsal: these figures mean nothing."}


def write(study: Study, entries: list[Entry], setting: str, folder: Path) -> list[Path]:
    """The document, the table as three-line LaTeX and as CSV, and the figures as SVG and PNG; the table in the study's page above."""
    made = rows(study, entries, setting)
    if not made:
        return []
    table, drawn = filled(frame(study, made)), figures.draw(study, made, networks_of(study))
    make_folder(folder)
    pictures = [file for name, figure in drawn.items() for file in figures.save(figure, study.name, folder / name)]
    files = {
        f"{study.name}.md": markdown(study, entries, setting, list(drawn)).encode(),
        f"{study.name}.tex": table.to_latex(index=False, escape=True).encode(),
        f"{study.name}.csv": table.to_csv(index=False, lineterminator="\n").encode(),
    }
    for name, content in files.items():
        write_durably(folder / name, content)
    pages = pages_above(study, setting, folder)
    for page in pages:
        fill_place(page, place_of(study), as_table(table))
    return [folder / name for name in files] + pictures + pages


def pages_above(study: Study, setting: str, folder: Path) -> list[Path]:
    """The study's page above the folder, where there is one.

    Raises:
        KitError: it has no place for the table.
    """
    page = folder.parent / study.page
    if not study.page or setting == "tiny" or not page.is_file():
        return []
    find_place(page, place_of(study))
    return [page]


def place_of(study: Study) -> str:
    return f"study {study.name}"


def markdown(study: Study, entries: list[Entry], setting: str, drawn: list[str] | tuple[str, ...] = ()) -> str:
    """The document of a study. drawn: names of its figures."""
    made = rows(study, entries, setting)
    done = [entry for entry in entries if entry["setting"] == setting and entry["state"] == "done"]
    machines = sorted({entry["device"] for entry in done})
    commits = list(dict.fromkeys(entry["commit"] for entry in done))
    parts = [
        f"# {study.name}",
        study.question,
        f"{SETTINGS.get(setting, f'Reduced to {study.reduction}.')} Validation accuracy, mean ± standard deviation over seeds; "
        "parameters, bytes and minutes are means, too; differences are of the seeds that both arms have. The reference is "
        f"`{study.reference}`. {told_apart(made)}",
        as_table(frame(study, made)),
        *(f"![{figures.SAYS[name.removeprefix(study.name)]}]({name}.svg)" for name in drawn),
        *section("Published and measured", published(study, made)),
        *section("Stage by stage", folded("Accuracy, parameters and bytes, means over seeds", as_table(steps(made)))),
        *section("What packing changed", folded("Centre crop, before and after", as_table(packing(made)))),
        *study.remarks,
        *(section("Networks", layers(study)) if study.layers else ()),
        (f"Device: {', '.join(machines)}. Commits: {', '.join(commits)}. " if done else "")
        + f"Made by `kit study {study.name}` from its journal alone.",
    ]
    return "\n\n".join(parts) + "\n"


def told_apart(made: list[Row]) -> str:
    noise = noise_of(made)
    if not noise.freedom:
        several = any(len(row.by_seed) > 1 for row in made)
        return "Seeds of one arm tell no arms apart." if several else "One seed tells no arms apart."
    return (
        f"A seed lifts or lowers all arms alike; what chance does beside that is {100 * noise.deviation:.2f} points (standard deviation, "
        f"{noise.freedom} degrees of freedom over all arms). An arm is *unseparated* where a t-test by that does not tell it from the one "
        f"that it is held against (p ≥ {SURE})."
    )


def section(title: str, content: str) -> tuple[str, ...]:
    return (f"## {title}", content) if content else ()


def folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>" if content else ""


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that are empty."""
    return table.loc[:, (table != "").any()]


def as_table(table: pd.DataFrame) -> str:
    """In Markdown, without the columns that are empty; nothing for no rows."""
    if table.empty:
        return ""
    table = filled(table)
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in table.to_numpy()]
    return "\n".join(lines)


def published(study: Study, made: list[Row]) -> str:
    table = agreement(study, made)
    if table.empty:
        return ""
    return f"Differences in points, published on other photos and after longer training.\n\n{as_table(table)}"


def layers(study: Study) -> str:
    """Every network layer by layer, as the courses print them."""
    sizes = {named(arm.config): arm.config.data.image_size for arm in study.arms}
    parts = []
    for name, network in networks_of(study).items():
        kinds = {path: type(module).__name__ for path, module in network.named_modules()}
        table = pd.DataFrame(
            {"layer": path, "kind": kinds[path], "output": "×".join(map(str, shape)), "parameters": f"{parameters:,}"}
            for path, shape, parameters in layer_rows(network, sizes[name])
        )
        title = f"{name}: {count_parameters(network):,} parameters at {sizes[name]} px"
        parts.append(folded(title, as_table(table)))
    return "\n\n".join(parts)
