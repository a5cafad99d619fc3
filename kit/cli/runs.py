"""The verbs that make something: a run, a plan of one, photos to try it on. Heavy imports wait inside, so that `--help` starts at once."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from kit.cli.app import (
    RECIPE_HELP,
    BudgetOption,
    CacheOption,
    DataOption,
    SetOption,
    SubsetOption,
    TeacherOption,
    app,
    recipes_here,
    say,
    submissions_folder,
)
from kit.config.competitions import competition
from kit.config.differences import described, differing
from kit.config.override import override, places_of
from kit.config.own import find_recipe
from kit.config.schema import Config
from kit.console import console
from kit.duration import parse_duration
from kit.errors import KitError
from kit.files import cache_folder
from kit.studies.catalogue import STUDIES, choose, find_study

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP, autocompletion=recipes_here)]


END = "…"  # of a command's words


class NamesFields(TyperCommand):
    """Answers `--epochs 3`, which it has no option for, with the field of the recipe that is meant, and `--set train.epochs 3`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        if not context.resilient_parsing:  # else a shell completes
            self.refuse(args)
        return super().parse_args(context, args)

    def refuse(self, args: list[str]) -> None:
        options = {name for param in self.params for name in param.opts}
        for word, after in pairwise((*args, END)):
            option, equals, value = word.partition("=")
            if word == "--set" and "=" not in after and after != END:
                raise KitError(f"--set {after}: write section.field=value in one word, for example --set train.epochs=30.")
            known = option in options or not option.startswith("--")
            if not known and (places := places_of(option[2:].replace("-", "_"))):
                ways = " or ".join(assignment(place, value if equals else after) for place in places)
                raise KitError(f"kit {self.name} has no {option}: a field of the recipe is changed by {ways}.")


def assignment(place: str, value: str) -> str:
    """What sets a field; a section that many recipes lack is given whole there."""
    section, _, field = place.partition(".")
    lacking = f" (where the recipe has no {section}, --set '{section}={{\"{field}\": {value}}}')"
    return f"--set {place}={value}" + (lacking if Config.model_fields[section].default is None else "")


@app.command(
    cls=NamesFields,
    rich_help_panel="Runs",
    epilog="Example: `kit run record --data Food-11 --budget 9h --out runs/record`\n\nTo go on with a run, give the same command again.",
)
def run(
    name: RecipeArgument,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all that the run leaves; default: runs/RECIPE, with --tiny runs/RECIPE-tiny.", show_default=False),
    ] = None,
    budget: BudgetOption = None,
    subset: SubsetOption = 1.0,
    teachers: TeacherOption = [],
    begin: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE", help="Start from this student instead of distilling one, to prune or pack it again.", show_default=False
        ),
    ] = None,
    assignments: SetOption = [],
    attached: Annotated[
        list[Path],
        typer.Option("--resume-from", metavar="DIR", help="Look here too for an earlier output of this run; the furthest wins."),
    ] = [],
    least_step: Annotated[int, typer.Option(min=0, help="Refuse to begin from less than this step, counted over all stages.")] = 0,
    cache: CacheOption = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Every stage, two epochs at 32 px: a try, not to be handed in.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the whole config, its digest and the size of the student for --data; do nothing.")
    ] = False,
) -> None:
    """Photos in, a checked submission out; or today's part of it."""
    recipe = find_recipe(name)
    config = override(recipe.tiny() if tiny else recipe, [*assignments, *share(subset)])
    if dry_run:
        print_plan(config, data, recipe)
        return
    from kit.data.draw import draw_dataset
    from kit.pipeline import run as run_pipeline
    from kit.train.budget import Budget

    out, limit = out or Path("runs") / config.recipe, Budget(budget)
    if data is None:
        if name != "sample":
            raise KitError(
                f"kit run {name} needs --data DIR, the folder that holds training/ and evaluation/. `kit run sample` needs none."
            )
        data = draw_dataset(out / "photos")
    for place in attached:
        if not place.is_dir():
            raise KitError(f"There is no folder {place} to go on from. Give the folder of an earlier output, or leave out --resume-from.")
    record = run_pipeline(
        config,
        data,
        out,
        cache=cache_folder(cache),
        budget=limit,
        teacher_files=teachers,
        begin=begin,
        submissions=submissions_folder(),
        attached=attached,
        least_step=least_step,
    )
    if limit.world.first and "validation_accuracy" in record:  # the others' record may be of the session before
        reached = record["validation_accuracy"]
        accuracy = "no validation accuracy" if reached is None else f"validation accuracy {reached:.4f}"
        say(f"{record['state']}: {accuracy}, submission {out / 'submission.csv'}")
    if limit.stop and record["state"] != "done":
        raise typer.Exit(75)  # a signal ended it, not its budget: a script's && should not go on


@app.command(
    rich_help_panel="Runs",
    epilog="Example: `kit plan record --data Food-11 --budget 9h --quota 30h`\n\nWith --epochs auto: as many epochs as fit.",
)
def plan(
    name: RecipeArgument,
    data: Annotated[Path, typer.Option(help="Folder that holds the data set, at any depth.")],
    budget: Annotated[str, typer.Option(help="A session's time, such as 9h.")] = "9h",
    quota: Annotated[str, typer.Option(help="The time of all sessions, such as 30h a week.")] = "30h",
    epochs: Annotated[str | None, typer.Option(help="A number of epochs, or auto: as many as the quota holds.", show_default=False)] = None,
    teachers: TeacherOption = [],
    subset: SubsetOption = 1.0,
    assignments: SetOption = [],
    cache: CacheOption = None,
) -> None:
    """How many hours and sessions a run needs on this machine: one epoch of everything is done and measured."""
    from kit import plan as planning

    if epochs not in (None, "auto") and not (epochs.isdecimal() and int(epochs)):
        raise KitError(f"--epochs {epochs}: give a number from 1 on, or auto.")
    number = [f"train.epochs={epochs}"] if epochs not in (None, "auto") else []
    config = override(find_recipe(name), [*assignments, *number, *share(subset)])
    length, all_hours = parse_duration(budget), parse_duration(quota)
    if not (length and all_hours):
        raise KitError(f"--budget {budget} and --quota {quota} must both be longer than nothing: write 9h, 30m or 1h30m.")
    say("one epoch of everything is measured; nothing of it is kept")
    measured = planning.measure(config, data, cache_folder(cache), teachers)
    if epochs == "auto":
        config = planning.fit_epochs(config, measured, length, all_hours)
    for part in planning.describe(config, measured, length, all_hours):
        console.print(part)
    words = ["kit", "run", name, "--data", str(data), "--budget", budget]
    for file in teachers:
        words += ["--teacher", str(file)]
    if cache:
        words += ["--cache", str(cache)]  # what was decoded to measure is decoded
    if subset != 1:
        words += ["--subset", str(subset)]
    for assignment in [*(a for a in assignments if not a.startswith("train.epochs=")), f"train.epochs={config.train.epochs}"]:
        words += ["--set", assignment]
    console.print(shlex.join(words), markup=False)


def share(subset: float) -> list[str]:
    """--subset as --set has it. All photos are a recipe's own share, which may be another."""
    return [f"data.subset={subset}"] if subset != 1 else []


def print_plan(config: Config, data: Path | None, recipe: Config) -> None:
    """The config and what comes of it for the classes of the photos; without any for the competition's, or for as many as `sample` has.
    At last how it differs from its recipe."""
    from kit.data.draw import SHAPES
    from kit.data.layout import find_dataset
    from kit.models.students import count_parameters
    from kit.models.widths import new_student

    rules, known = competition(config.whose_limit), competition(config.competition).classes
    if data is not None:
        known = find_dataset(data, known, config.data.holdout, config.train.seed).classes
    classes = len(known or SHAPES)
    parameters = count_parameters(new_student(config.student, classes))
    print(json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False))
    limits = ((rules.max_parameters, "parameters"), (rules.max_bytes, "bytes"))
    limit = " and ".join(f"{most:,} {what}" for most, what in limits if most) or "none"
    console.print(
        f"digest {config.digest()}, student {config.student.name} with {parameters:,} parameters for {classes} classes"
        f"{'' if known else ' (an example: --data tells)'}, limit {limit}, {'pruned' if config.prune else 'not pruned'}",
        markup=False,
    )
    changed = described(differing(recipe.model_dump(mode="json"), config.model_dump(mode="json")))
    say("\n".join([f"{recipe.recipe} as it is written, but for", *changed]) if changed else f"{recipe.recipe} as it is written")


@app.command(rich_help_panel="Runs", epilog="Example: `kit new pets --data ../pets`\n\nThen: `kit run ./pets.py --data ../pets --tiny`")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The recipe's name; the file is ./NAME.py.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the data set, at any depth.")],
) -> None:
    """A recipe file of your own to begin with, fitted to your photos; `kit run ./NAME.py` takes it."""
    from kit.draft import draft

    for line in draft(name, data, Path()):
        say(line)


@app.command(
    rich_help_panel="Runs", epilog="Example: `kit sample photos`\n\nThen: `kit run boss --data photos --tiny --set competition=any`"
)
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the photos.")],
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal photos.", min=0)] = 0,
) -> None:
    """Draw a small data set in the HW13 layout: six kinds of shapes that colour alone can't tell apart."""
    from kit.data.draw import SPLITS, draw_dataset

    if there := [name for name in SPLITS if (folder / name).exists()]:
        raise KitError(f"{folder} holds {there[0]}/ already, and nothing was drawn. Choose another folder, or remove it.")
    draw_dataset(folder, seed)
    say(f"{folder}: {', '.join(f'{count} {name}' for name, count in SPLITS.items())} photos")


@app.command(rich_help_panel="Runs", epilog="Example: `kit study hw13 --data Food-11 --budget 40m`\n\nThe same command goes on from there.")
def study(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help=f"One of {', '.join(STUDIES)}.", autocompletion=lambda incomplete: list(STUDIES))
    ],
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the arms' runs; default: runs/study-NAME, with --tiny runs/study-NAME-tiny.", show_default=False),
    ] = None,
    docs: Annotated[Path | None, typer.Option(help="Folder of journal, tables and figures; default: --out.", show_default=False)] = None,
    budget: BudgetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each arm is run with.")] = 3,
    only: Annotated[list[str], typer.Option("--arm", help="Only this arm; may be repeated.")] = [],
    tiny: Annotated[bool, typer.Option("--tiny", help="The arms for two epochs at 32 px; their figures mean nothing.")] = False,
    halving: Annotated[bool, typer.Option("--halving", help="Stop arms that lag behind the others early; needs optuna.")] = False,
    full: Annotated[bool, typer.Option("--full", help="The arms as they are, for a GPU; default: reduced to this machine's size.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Arms go to Ray: several machines or GPUs at once; pip install ray.")] = False,
    teachers: TeacherOption = [],
    cache: CacheOption = None,
) -> None:
    """Run or resume a study's arms × seeds, and write its table and figures."""
    from kit.data.draw import draw_dataset
    from kit.studies.document import pages_above, write
    from kit.studies.journal import read
    from kit.studies.runner import Place, Setting, in_turn, refuse_other_configs, run_study
    from kit.studies.spread import over_ray
    from kit.train.budget import Budget

    whole = find_study(name)
    asked = choose(whole, only)
    out = out or Path("runs") / f"study-{name}{'-tiny' * tiny}"
    if data is None and not tiny:
        raise KitError(f"kit study {name} needs --data DIR, the folder that holds training/ and evaluation/. With --tiny it draws its own.")
    data = data or draw_dataset(out / "photos")
    folder = docs or out
    place = Place(folder / f"{name}.jsonl", (out / "arms").resolve() if ray else out / "arms")
    setting: Setting = "tiny" if tiny else "full" if full else "reduced"
    # the arms that are not asked for are in the table, too
    refuse_other_configs(whole, read(place.journal, name, lambda _: None), setting, place.journal)
    pages_above(whole, setting, folder)  # now, and not after hours
    limit = Budget(budget)
    first = asked.arms[0].config.train.seed
    numbers = range(first, first + seeds)
    run_study(
        asked,
        place,
        data,
        cache=cache_folder(cache),
        budget=limit,
        seeds=numbers,
        setting=setting,
        say=say,
        teachers=teachers,
        how=over_ray if ray else in_turn,
        halving=halving,
    )
    for file in write(whole, read(place.journal, name, say), setting, folder):
        say(f"{file}")
    if limit.stop:
        raise typer.Exit(75)  # as a run
