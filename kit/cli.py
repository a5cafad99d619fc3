"""The verbs. Heavy imports wait inside them, so that `--help` and worker processes start at once."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kit.config.competitions import competition
from kit.config.recipes import RECIPES, recipe
from kit.config.schema import Config, override
from kit.console import console
from kit.errors import KitError
from kit.files import REMEDIES

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a folder of photos to a checked Kaggle submission by a tiny distilled student.",
)

DataOption = Annotated[Path | None, typer.Option(help="Folder that holds the data set, at any depth.", show_default=False)]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="Where decoded photos are kept; default: the user's cache, temporary disk on Kaggle.", show_default=False),
]
TeacherOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher",
        metavar="FILE|RUN",
        help="A teacher: weights, a student.kit, or a run's folder; several teach together. Default: the competition's beside the data.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change a field of the recipe; may be repeated.")
]


@app.command(
    epilog="Example: `kit run record --data Food-11 --budget 9h --out runs/record`. To go on with a run, give the same command again."
)
def run(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all that the run leaves; default: runs/RECIPE.", show_default=False)] = None,
    budget: Annotated[str | None, typer.Option(help="This session's time, such as 9h or 30m; default: none.", show_default=False)] = None,
    subset: Annotated[float, typer.Option(help="Stratified share of every split, for a smoke test on real photos.")] = 1.0,
    teachers: TeacherOption = None,
    assignments: SetOption = None,
    attached: Annotated[
        list[Path] | None,
        typer.Option("--resume-from", metavar="DIR", help="Look here too for an earlier output of this run; the furthest wins."),
    ] = None,
    least_step: Annotated[int, typer.Option(help="Refuse to begin from less than this step, counted over all stages.")] = 0,
    cache: CacheOption = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="The same path in seconds: two epochs at 32 px.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole config, its digest and the student's size; do nothing.")
    ] = False,
) -> None:
    """Photos in, a checked submission out; or today's part of it."""
    config = recipe(name)
    config = override(config.tiny() if tiny else config, (assignments or []) + ([f"data.subset={subset}"] if subset != 1 else []))
    if dry_run:
        print_plan(config)
        return
    from kit.data.cache import cache_folder
    from kit.data.draw import draw_dataset
    from kit.pipeline import run as run_pipeline
    from kit.train.budget import Budget, parse_duration

    out = out or Path("runs") / name
    limit = Budget(parse_duration(budget) if budget else None)
    if data is None:
        if name != "sample":
            raise KitError(
                f"kit run {name} needs --data DIR, the folder that holds training/ and evaluation/. `kit run sample` needs none."
            )
        data = draw_dataset(out / "photos")
    record = run_pipeline(
        config,
        data,
        out,
        cache=cache_folder(cache),
        budget=limit,
        teacher_files=teachers or (),
        submissions=submissions_folder(),
        attached=attached or (),
        least_step=least_step,
    )
    if "validation_accuracy" in record:
        accuracy, csv = record["validation_accuracy"], out / "submission.csv"
        console.print(f"{record['state']}: validation accuracy {accuracy:.4f}, submission {csv}", markup=False)
    if limit.stop:
        raise typer.Exit(75)  # a signal ended it, not its budget: a script's && should not go on


@app.command(epilog="Example: `kit plan record --data Food-11 --budget 9h --quota 30h`, or with `--epochs auto` for what fits.")
def plan(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"One of {', '.join(RECIPES)}.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the data set, at any depth.")],
    budget: Annotated[str, typer.Option(help="A session's time, such as 9h.")] = "9h",
    quota: Annotated[str, typer.Option(help="The time of all sessions, such as 30h a week.")] = "30h",
    epochs: Annotated[str | None, typer.Option(help="A number, or auto: as many as the quota holds.", show_default=False)] = None,
    teachers: TeacherOption = None,
    assignments: SetOption = None,
    cache: CacheOption = None,
) -> None:
    """How many hours and sessions a run needs on this machine: one epoch of everything is done and measured."""
    from kit import plan as planning
    from kit.data.cache import cache_folder
    from kit.train.budget import parse_duration

    number = [f"train.epochs={epochs}"] if epochs and epochs != "auto" else []
    config, length, all_hours = override(recipe(name), (assignments or []) + number), parse_duration(budget), parse_duration(quota)
    measured = planning.measure(config, data, cache_folder(cache), teachers or ())
    if epochs == "auto":
        config = planning.fit_epochs(config, measured, length, all_hours)
    for part in planning.describe(config, measured, length, all_hours):
        console.print(part)
    words = ["kit", "run", name, "--data", str(data), "--budget", budget]
    for file in teachers or ():
        words += ["--teacher", str(file)]
    for assignment in [*(assignments or []), f"train.epochs={config.train.epochs}"]:
        words += ["--set", assignment]
    console.print(shlex.join(words), markup=False)


def print_plan(config: Config) -> None:
    from kit.models.students import build_student, count_parameters

    rules = competition(config.limit or config.competition)
    classes = len(rules.classes) if rules.classes else 6
    parameters = count_parameters(build_student(config.student.name, config.student.widths, classes))
    print(json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False))
    limit = f"{rules.max_parameters:,}" if rules.max_parameters else "none"
    console.print(
        f"digest {config.digest()}, student {config.student.name} with {parameters:,} parameters for {classes} classes, limit {limit}, "
        f"{'pruned' if config.prune else 'not pruned'}",
        markup=False,
    )


def submissions_folder() -> Path | None:
    """`submissions/` of the clone that the command runs in."""
    place = Path("submissions")
    return place if place.is_dir() and Path("kit").is_dir() else None


@app.command(epilog="Example: `kit sample photos`, then `kit run boss --data photos --tiny --set competition=any`.")
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the photos.")],
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal photos.")] = 0,
) -> None:
    """Draw a small data set in the HW13 layout: six kinds of shapes that colour alone can't tell apart."""
    from kit.data.draw import SPLITS, draw_dataset

    draw_dataset(folder, seed)
    console.print(f"{folder}: {', '.join(f'{count} {name}' for name, count in SPLITS.items())} photos", markup=False)


@app.command(epilog="Example: `kit predict runs/record/student.kit --data Food-11 --out submission.csv`.")
def predict(
    file: Annotated[Path, typer.Argument(metavar="FILE.kit", help="A packed student.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the data set, at any depth.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    split: Annotated[str, typer.Option(help="evaluation, validation or training.")] = "evaluation",
    cache: CacheOption = None,
) -> None:
    """Predict a split with a packed student; with accuracy and per-class scores where there are labels."""
    from kit.data.cache import cache_folder
    from kit.score import predict_split

    for line in predict_split(file, data, out, split, cache_folder(cache)):
        console.print(line, markup=False)


@app.command(epilog="Example: `kit inspect runs/record/student.kit`, or a .ckpt, .pt, .bin, .safetensors, or HW7's .pkl.")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed student, or another program's file of weights.")],
    image_size: Annotated[
        int | None,
        typer.Option(min=16, help="Side of the photo that MACs are counted for; default: the student's own, else 224.", show_default=False),
    ] = None,
) -> None:
    """Layers with shapes, parameters, MACs, bits and bytes. No pickle is executed."""
    from kit.inspection import inspect as describe

    wide = Console(width=max(console.width, 130))  # on a narrow terminal its lines break; numbers that are cut off help nobody
    for part in describe(file, image_size):
        console.print(part, markup=False) if isinstance(part, str) else wide.print(part)


@app.command(epilog="Example: `kit export runs/record --format hw7-8bit --out 8_bit_model.pkl`.")
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run's folder (its trained weights), a student.kit, or weights.")],
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="ckpt, hw7-8bit, hw7-16bit or safetensors.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """The weights as another program reads them, batch norm in its place."""
    from kit.export import export as write

    console.print(write(source, form, out), markup=False)


@app.command(epilog="Example: `kit check runs/record/submission.csv --data Food-11`.")
def check(
    file: Annotated[Path, typer.Argument(metavar="SUBMISSION", help="A CSV, or a folder that holds submission.csv.")],
    data: Annotated[Path | None, typer.Option(help="Compare ids with this data set's evaluation photos.", show_default=False)] = None,
    rules: Annotated[str, typer.Option("--competition", help="Whose format.")] = "hw13-2023",
) -> None:
    """Whether Kaggle would take a submission: ids, padding, order, rows, classes, collapsed predictions."""
    from kit.data.layout import find_dataset
    from kit.submission import check as check_csv
    from kit.submission import ids_for

    file = file / "submission.csv" if file.is_dir() else file
    ids = classes = None
    if data is not None:
        dataset = find_dataset(data, competition(rules).classes, 0.2, 0)
        ids, classes = ids_for(tuple(p.name for p in dataset.evaluation.paths), competition(rules)), len(dataset.classes)
    if found := check_csv(file, rules, classes, ids):
        raise KitError(f"{file} is not to hand in: {'; '.join(found)}.")
    console.print(f"{file}: fit for {rules}", markup=False)


@app.command(epilog="Example: `kit doctor --data Food-11`.")
def doctor(
    data: DataOption = None,
    cache: CacheOption = None,
) -> None:
    """What is wrong with this machine, before it costs hours; fails if a run could not work."""
    from kit.data.cache import cache_folder
    from kit.doctor import examine

    if not examine(data, cache_folder(cache)):
        raise typer.Exit(1)


@app.command(epilog="Example: `kit bundle record`, then `kaggle kernels push -p kernels/record`.")
def bundle(name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of kernels/.")]) -> None:
    """One self-contained script for Kaggle: a kernel's head with the kit inside."""
    from kit.remote.bundle import bundle as write_bundle

    built = write_bundle(Path("kernels") / name)
    console.print(f"{built}: {built.stat().st_size:,} bytes", markup=False)


@app.command(epilog="Example: `kit push record --wait`.")
def push(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of kernels/.")],
    wait: Annotated[bool, typer.Option("--wait", help="Follow the session's log to its end; fails if it does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the request; send nothing.")] = False,
    timeout: Annotated[str | None, typer.Option(help="Kaggle ends the session after this, such as 9h.", show_default=False)] = None,
    patience: Annotated[str, typer.Option(help="How long to wait for a free session when two are running, such as 2h.")] = "0s",
) -> None:
    """Bundle a kernel and start its session on Kaggle; success is a version number and no dropped source."""
    from kit.remote import push as pushing
    from kit.remote.bundle import bundle as write_bundle
    from kit.remote.client import connect, kernel_folder
    from kit.train.budget import parse_duration

    kernel, kaggle = kernel_folder(name), connect()
    say = lambda line: console.print(line, markup=False)  # noqa: E731
    if dry_run:
        metadata = pushing.read_metadata(kernel, kaggle.user)
        print(pushing.describe(metadata, write_bundle(kernel).read_text(encoding="utf-8")))
        return
    seconds = round(parse_duration(timeout)) if timeout else None
    pushed = pushing.push(kernel, kaggle, say, timeout=seconds, patience=parse_duration(patience))
    say(f"{pushed.ref} version {pushed.version}: {pushed.url}")
    if wait:
        pushing.wait_for(pushed, kaggle, say).insist(f"{pushed.ref} version {pushed.version}")


@app.command(epilog="Example: `kit chain record`, left alone over night; started again it goes on.")
def chain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of kernels/.")],
    max_sessions: Annotated[int | None, typer.Option(help="Stop after as many sessions.", show_default=False)] = None,
    until: Annotated[int | None, typer.Option(help="Stop when the run is at this step.", show_default=False)] = None,
    timeout: Annotated[str | None, typer.Option(help="Kaggle ends a session after this, such as 9h.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the chain keeps what it knows; default: runs/chain-NAME.", show_default=False)
    ] = None,
) -> None:
    """Session after session on Kaggle until the run is done: push, wait, attach the output, push again."""
    from kit.remote.chain import chain as run_chain
    from kit.remote.client import connect, kernel_folder
    from kit.train.budget import parse_duration

    story = run_chain(
        kernel_folder(name),
        connect(),
        lambda line: console.print(line, markup=False),
        folder=out or Path("runs") / f"chain-{name}",
        max_sessions=max_sessions,
        until=until,
        timeout=round(parse_duration(timeout)) if timeout else None,
    )
    console.print(f"{story.ref}: {story.state} after {len(story.steps)} sessions, step {max(story.steps, default=0):,}", markup=False)


@app.command(epilog="Example: `kit pull record`, or only the CSV: `kit pull record --pattern submission.csv`.")
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A folder of kernels/.")],
    pattern: Annotated[
        str, typer.Option(help="Regular expression that a file's whole name must fit.")
    ] = r"submission.csv|student.kit|run.json",
    out: Annotated[Path | None, typer.Option(help="Folder to fetch into; default: runs/NAME-kaggle.", show_default=False)] = None,
) -> None:
    """Fetch what a kernel's newest session left on Kaggle."""
    from kit.remote.client import connect, kernel_folder
    from kit.remote.output import fetch
    from kit.remote.push import read_metadata

    kaggle = connect()
    ref = read_metadata(kernel_folder(name), kaggle.user)["id"]
    for file in fetch(kaggle, ref, out or Path("runs") / f"{name}-kaggle", pattern):
        console.print(f"{file}: {file.stat().st_size:,} bytes", markup=False)


def main() -> None:
    """Entry point: a user's mistake ends in one paragraph and exit code 1, never in a traceback."""
    try:
        app()
    except KitError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in REMEDIES or error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}. {REMEDIES[error.errno]}; what was saved before is untouched.")
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C", 130)


def fail(message: str, code: int = 1) -> None:
    if os.environ.get("RANK", "0") == "0":  # of several processes one says it
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
