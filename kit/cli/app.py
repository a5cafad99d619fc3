"""The command's root, and the options that verbs share."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from kit.config.recipes import RECIPES
from kit.console import console
from kit.duration import parse_duration
from kit.version import VERSION, commit


class Verbs(TyperGroup):
    """Typer shows <bool> beside a flag, which takes no value."""

    def get_params(self, context: Any) -> list[Any]:
        return untyped(super().get_params(context))

    def get_command(self, context: Any, name: str) -> Any:
        if command := super().get_command(context, name):
            untyped(command.get_params(context))
        return command


def untyped(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a folder of photos to a checked Kaggle submission by a tiny distilled student.",
)

BudgetOption = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration, metavar="DURATION", help="This session's time, such as 9h or 30m; default: none.", show_default=False
    ),
]
DataOption = Annotated[Path | None, typer.Option(help="Folder that holds the data set, at any depth.", show_default=False)]
ComparedOption = Annotated[
    Path | None, typer.Option("--data", help="Compare ids and classes with this data set's evaluation photos.", show_default=False)
]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="Where decoded photos are kept; default: the user's cache, temporary disk on Kaggle.", show_default=False),
]
SubsetOption = Annotated[float, typer.Option(min=0.001, max=1, help="Stratified share of every split, for a smoke test on real photos.")]
TeacherOption = Annotated[
    list[Path],
    typer.Option(
        "--teacher",
        metavar="FILE|RUN",
        help="A teacher: weights, a student.kit, or a run's folder; several teach together. Default: the competition's beside the data.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        help="Change a field of the recipe, such as train.epochs=30; may be repeated. `kit run RECIPE --dry-run` prints all.",
    ),
]
RECIPE_HELP = f"One of {', '.join(RECIPES)}; or a file of your own, ./NAME.py (`kit new`)."


def recipes_here(incomplete: str) -> list[str]:
    """What a shell completes."""
    return [*RECIPES, *(f"./{file}" for file in sorted(Path().glob("*.py")))]


def say_version(asked: bool) -> None:
    if asked:
        say(f"kaggle-submission-kit {VERSION}, commit {commit()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=say_version, is_eager=True, help="Which kit this is.")] = False,
) -> None:
    pass


def say(line: str) -> None:
    """A line as it is: names and paths may hold what rich takes for markup."""
    console.print(line, markup=False)


def show(parts: Iterable[Table | str], width: int) -> None:
    """Tables `width` columns wide at least: on a narrower terminal their lines break, and numbers that are cut off help nobody."""
    wide = Console(width=max(console.width, width))
    for part in parts:
        say(part) if isinstance(part, str) else wide.print(part)


def submissions_folder() -> Path | None:
    """`submissions/` of the clone that the command runs in."""
    place = Path("submissions")
    return place if place.is_dir() and Path("kit").is_dir() else None
