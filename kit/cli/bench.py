"""The verb that measures: the kit's ways beside what people use, on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from kit.cli.app import RECIPE_HELP, CacheOption, SetOption, app, recipes_here, say, show
from kit.config.override import override
from kit.config.own import find_recipe
from kit.console import counted
from kit.files import cache_folder, find_place


@app.command(
    rich_help_panel="Files and checks",
    epilog="Example: `kit bench feed --data Food-11 --json feed.json`\n\n`kit bench step --recipe record --data Food-11 --json step.json`",
)
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="feed, ingest, step, save or predict.")],
    json: Annotated[Path, typer.Option(help="The file to write: every round's value, and what it was measured on.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that holds the data set, at any depth, or photos alone; save needs none.", show_default=False),
    ] = None,
    name_of_recipe: Annotated[
        str,
        typer.Option("--recipe", help=f"Whose photos, views and networks. {RECIPE_HELP}", autocompletion=recipes_here),
    ] = "boss",
    rounds: Annotated[int, typer.Option(min=1, help="Each round times every way, in another order.")] = 7,
    page: Annotated[
        Path | None,
        typer.Option(
            help="A Markdown document whose table of this benchmark is written anew, such as docs/performance.md.", show_default=False
        ),
    ] = None,
    assignments: SetOption = [],
    cache: CacheOption = None,
) -> None:
    """Time the kit's ways beside those that people use, in one run and in shuffled rounds: medians, spread, and ratios to a baseline."""
    from kit.bench import outcome as outcomes
    from kit.bench.catalogue import find_bench, run
    from kit.device import choose_device
    from kit.target import refuse_overwriting

    find_bench(name)
    refuse_overwriting(json, *([data] if data else []), option="--json")
    if page:
        find_place(page, outcomes.place_of(name, choose_device().says))  # now, and not after half an hour
    outcome = run(name, override(find_recipe(name_of_recipe), assignments), data, cache_folder(cache), rounds)
    outcomes.write(outcome, json)
    show(outcomes.screen(outcome), 160)
    say(f"{json}: {counted(len(outcome.rows), 'way')}, {counted(rounds, 'round')}")
    if page:
        outcomes.fill(page, outcome)
        say(f"{page}: its table of {name} is written anew")
