"""The verbs that look at something that is there: a packed student, a file of weights, a CSV, this machine."""

from pathlib import Path
from typing import Annotated

import typer

from kit.cli.app import CacheOption, ComparedOption, DataOption, SetOption, app, say, show
from kit.config.choices import Format, LostBy, SplitName
from kit.config.competitions import COMPETITIONS
from kit.errors import KitError
from kit.files import cache_folder


@app.command(rich_help_panel="Files and checks", epilog="Example: `kit predict runs/record --data Food-11 --out answers.csv`")
def predict(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, or a student.kit.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the data set, at any depth, or photos alone, in itself or in its test/.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    split: Annotated[SplitName, typer.Option(help="Which photos.")] = "evaluation",
    cache: CacheOption = None,
) -> None:
    """Predict a split with a packed student; with accuracy and per-class scores where there are labels."""
    from kit.score import predict_split

    for line in predict_split(source, data, out, split, cache_folder(cache)):
        say(line)


@app.command(
    rich_help_panel="Files and checks",
    epilog="Example: `kit inspect runs/record`\n\nOr a .kit, .ckpt, .pt, .bin, .safetensors, or HW7's .pkl.",
)
def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE", help="A run's folder, a student.kit, a run's checkpoint, or another program's weights."),
    ],
    image_size: Annotated[
        int | None,
        typer.Option(
            min=16, help="Side of the photo that MACs are counted for, px; default: the student's own, else 224.", show_default=False
        ),
    ] = None,
) -> None:
    """Layers with shapes, parameters, MACs, bits and bytes. No pickle is executed."""
    from kit.inspection import inspect as describe

    show(describe(file, image_size), 130)


@app.command(
    rich_help_panel="Files and checks",
    epilog="Example: `kit report runs/record`\n\nSeveral side by side: `kit report runs/boss runs/record`",
)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; default: RUN/report.html, of several comparison.html.", show_default=False)
    ] = None,
) -> None:
    """A run on one page, report.html, from its own files; several runs side by side."""
    from kit.names import REPORT
    from kit.report.compare import compare
    from kit.report.run import read_run
    from kit.report.write import write_page
    from kit.target import refuse_overwriting

    if out is not None and [out.parent.resolve() / out.name] != [run.resolve() / REPORT for run in runs]:  # it may its own
        refuse_overwriting(out, *runs)
    read = [read_run(folder) for folder in runs]
    place = write_page(read[0], out) if len(read) == 1 else compare(read, out or Path("comparison.html"))
    say(f"{place}: {place.stat().st_size:,} bytes")


@app.command(
    rich_help_panel="Files and checks",
    epilog="Example: `kit compress runs/record --to 6bit --out small.kit`\n\n"
    "`kit compress runs/record --to 40000params --data Food-11 --out s.kit`",
)
def compress(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run's folder, a student.kit, or a file of weights.")],
    to: Annotated[
        list[str], typer.Option(metavar="LIMIT", help="What it may have at most: 60000params, 20MMACs, 250kB or 4bit; may be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="The student.kit to write.")],
    data: DataOption = None,
    student: Annotated[str | None, typer.Option(help="Its name, where the file does not tell.", show_default=False)] = None,
    by: Annotated[LostBy, typer.Option(help="What parameters are lost by; rank: of the layers.")] = "channels",
    assignments: SetOption = [],
    cache: CacheOption = None,
) -> None:
    """Prune and quantize a student that is there, without training; fewer bits come before fewer channels. Pruning needs --data."""
    from kit.compression import compress as bring_under

    for line in bring_under(source, to, out, data, cache_folder(cache), student, assignments, by):
        say(line)


@app.command(rich_help_panel="Files and checks", epilog="Example: `kit export runs/record --format hw7-8bit --out 8_bit_model.pkl`")
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run's folder (its trained weights), a student.kit, or weights.")],
    form: Annotated[Format, typer.Option("--format", help="What to write.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    data: DataOption = None,
    student: Annotated[str | None, typer.Option(help="Its name, where the file does not tell; for onnx.", show_default=False)] = None,
    assignments: SetOption = [],
    cache: CacheOption = None,
) -> None:
    """The weights as another program reads them, batch norm in its place; or an ONNX graph, folded. onnx-int8 is calibrated on --data."""
    from kit.export import export as write

    for line in write(source, form, out, data, cache_folder(cache), student, assignments):
        say(line)


@app.command(rich_help_panel="Files and checks", epilog="Example: `kit check runs/record --data Food-11`")
def check(
    file: Annotated[Path, typer.Argument(metavar="SUBMISSION", help="A CSV, or a folder that holds submission.csv.")],
    data: ComparedOption = None,
    rules: Annotated[
        str | None,
        typer.Option("--competition", help=f"One of {', '.join(COMPETITIONS)}; default: the run's, else hw13-2023.", show_default=False),
    ] = None,
) -> None:
    """Whether Kaggle would take a submission: ids, padding, order, rows, classes, collapsed predictions, its student's limit."""
    from kit.files import sha256_of
    from kit.remote.submit import faults_of_making, provenance_of
    from kit.submission import check as check_csv

    file = file / "submission.csv" if file.is_dir() else file
    made = provenance_of(file)
    rules = rules or made.get("competition", "hw13-2023")
    found = check_csv(file, rules, data)
    if made.get("csv_sha256") == sha256_of(file):
        found += faults_of_making(made, rules)
    elif made:
        say(f"note: {file} is not the file that provenance.json beside it tells of: its student's limit is not checked")
    if found:
        raise KitError(f"{file} can't be submitted: {'; '.join(dict.fromkeys(found))}.")
    say(f"{file}: fit for {rules}")


@app.command(rich_help_panel="Files and checks", epilog="Example: `kit doctor --data Food-11`")
def doctor(
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """What is wrong with this machine, before it costs hours; fails if a run could not work."""
    from kit.doctor import examine

    if not examine(data, cache_folder(cache)):
        raise typer.Exit(1)


@app.command(
    rich_help_panel="Files and checks",
    epilog="Example: `kit students --image-size 96`\n\nWidths for a limit: `kit students record deep --parameters 60000`",
)
def students(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Which; default: all. timm/NAME works too.")] = [],
    image_size: Annotated[int, typer.Option(min=16, help="Side of the photos, px.")] = 224,
    classes: Annotated[int, typer.Option(min=2, help="How many classes there are.")] = 11,
    parameters: Annotated[
        int | None, typer.Option(min=1, help="Solve each one's widths for this limit (student.parameters).", show_default=False)
    ] = None,
    multiple: Annotated[int, typer.Option(min=1, help="Solved widths are multiples of so many channels.")] = 1,
) -> None:
    """The students side by side: parameters, multiplications, activations, and the time of a step on this machine."""
    from kit.gallery import compare

    show(compare(names, image_size, classes, parameters, multiple), 160)
