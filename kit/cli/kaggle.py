"""The verbs that talk to Kaggle."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from kit.cli.app import ComparedOption, app, say, submissions_folder
from kit.config.competitions import ON_KAGGLE
from kit.console import console, counted
from kit.duration import parse_duration, say_duration
from kit.errors import KitError


def completed(incomplete: str) -> list[str]:
    """What a shell completes."""
    from kit.remote.metadata import kernels_here

    return [kernel.name for kernel in kernels_here()]


KernelArgument = Annotated[str, typer.Argument(metavar="NAME", help="A folder of kernels/.", autocompletion=completed)]
StudyOption = Annotated[str | None, typer.Option(help="For the kernel study: which one.", show_default=False)]
ArmOption = Annotated[list[str] | None, typer.Option("--arm", help="Only this arm of it; may be repeated.", show_default=False)]
ShardOption = Annotated[str, typer.Option(help="Only every n-th of its arms, from the k-th on: k/n.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds each arm is run with.")]
TimeoutOption = Annotated[
    str | None,
    typer.Option(help="Kaggle ends a session after this, such as 4h; the session itself ends in order before.", show_default=False),
]


@app.command(rich_help_panel="Kaggle", epilog="Example: `kit bundle record`\n\nThen: `kaggle kernels push -p kernels/record`")
def bundle(
    name: KernelArgument,
    notebook: Annotated[bool, typer.Option("--notebook", help="An .ipynb, to be imported in Kaggle's editor.")] = False,
) -> None:
    """One self-contained script for Kaggle: a kernel's head with the kit inside."""
    from kit.remote import bundle as bundling
    from kit.remote.credentials import account
    from kit.remote.metadata import NOBODY, kernel_folder, metadata_text, write_owner

    kernel = kernel_folder(name)
    built = bundling.notebook(kernel) if notebook else bundling.bundle(kernel)
    say(f"{built}: {built.stat().st_size:,} bytes")
    if write_owner(kernel, account()):
        say(f"{kernel / 'kernel-metadata.json'}: {NOBODY} is {account()} now")
    elif NOBODY in metadata_text(kernel):
        say(f"for the plain kaggle command, put your user name for {NOBODY} in {kernel / 'kernel-metadata.json'}; kit push does it itself")


@app.command(
    rich_help_panel="Kaggle",
    epilog="Example: `kit push record --wait`\n\nA quarter of a study's arms: `kit push study --study hw13 --shard 1/4`",
)
def push(
    name: KernelArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log to the session's end; exit code 1 if the session fails.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the request; start nothing. Needs your token, too.")] = False,
    timeout: TimeoutOption = None,
    patience: Annotated[str, typer.Option(help="How long to wait for a free session when two are running, such as 2h.")] = "0s",
    study: StudyOption = None,
    arms: ArmOption = None,
    shard: ShardOption = "1/1",
    seeds: SeedsOption = 1,
) -> None:
    """Bundle a kernel and start its session on Kaggle; success is a version number and no dropped source."""
    from kit.remote import push as pushing
    from kit.remote.bundle import compose, read_head, write_script
    from kit.remote.client import connect
    from kit.remote.metadata import kernel_folder, read_metadata

    kernel = kernel_folder(name)
    part, kaggle = share("push", kernel.name, study, arms or [], shard, seeds), connect(say)
    limit, patient = session_limit(timeout), parse_duration(patience)
    changes, environment = as_kernel(*part, kernel, kaggle) if part else ({}, {})
    if dry_run:
        metadata = pushing.changed(read_metadata(kernel, kaggle.user), changes)
        text = compose(kernel, read_head(kernel), environment=environment, timeout=limit)
        write_script(kernel, text)
        print(pushing.describe(metadata, text, limit))
        return
    pushed = pushing.push(kernel, kaggle, timeout=limit, patience=patient, changes=changes, environment=environment)
    say(f"{pushed.ref} version {pushed.version}: {pushed.url}")
    if wait:
        pushing.wait_for(pushed, kaggle).insist(f"{pushed.ref} version {pushed.version}")


def chain_folder(kernel: Path) -> Path:
    return Path("runs") / f"chain-{kernel.name}"


def session_limit(timeout: str | None) -> int | None:
    """--timeout in seconds, None without.

    Raises:
        KitError: too little for a session that ends in order, or more than Kaggle gives one.
    """
    from kit.remote.kernel import LONGEST, SHORTEST

    if timeout is None:
        return None
    seconds = round(parse_duration(timeout))
    if seconds < SHORTEST:
        raise KitError(f"--timeout {timeout} leaves a session no time to end in order. Give it {say_duration(SHORTEST)} at least.")
    if seconds > LONGEST:
        raise KitError(f"--timeout {timeout} is more than Kaggle's own limit. Give it {say_duration(LONGEST)} at most, or leave it out.")
    return seconds


def share(verb: str, name: str, study: str | None, arms: list[str], shard: str, seeds: int) -> tuple[str, str] | None:
    """(its kernel's title, the order for its session) of the share of a study that a verb's options tell of; None for another kernel."""
    if (name == "study") != bool(study) or (not study and (arms or shard != "1/1" or seeds != 1)):
        raise KitError(f"--study, --arm, --shard and --seeds are the kernel study's, which needs the first: kit {verb} study --study NAME.")
    if not study:
        return None
    from kit.studies.shard import Share

    part = Share(study=study, arms=tuple(arms), shard=shard, seeds=seeds)
    part.chosen()
    return part.title(), part.model_dump_json()


def ref_of(title: str, kernel: Path, user: str) -> str:
    """owner/slug of a share's kernel: of its own, so that shares are at work beside each other."""
    from slugify import slugify

    from kit.remote.metadata import read_metadata

    return f"{read_metadata(kernel, user)['id'].partition('/')[0]}/{slugify(title)}"


def as_kernel(title: str, order: str, kernel: Path, kaggle: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """(what a share's kernel has otherwise than the metadata say: its name and, from the second push on, its own output, with which its
    session goes on; the variable that tells the session what to run)."""
    from kit.remote.push import newest_version
    from kit.studies.shard import ORDER

    ref = ref_of(title, kernel, kaggle.user)
    before = {"kernel_sources": [ref]} if newest_version(kaggle, ref).number else {}
    return {"id": ref, "title": title} | before, {ORDER: order}


@app.command(rich_help_panel="Kaggle", epilog="Example: `kit chain record`\n\nLeft alone overnight; started again it goes on.")
def chain(
    name: KernelArgument,
    max_sessions: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many sessions in all, earlier starts included.", show_default=False)
    ] = None,
    until: Annotated[int | None, typer.Option(min=1, help="Stop when the run is at this step.", show_default=False)] = None,
    timeout: TimeoutOption = None,
    via: Annotated[
        Literal["self", "pair", "dataset"] | None,  # Via, whose room would be read for `kit --help`, too
        typer.Option(
            help="How the state travels: self (the kernel is its own source), pair (two kernels take turns), dataset (a private one). "
            "Default: self, then the next where Kaggle drops the source.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where the chain keeps what it knows, and the furthest output; default: runs/chain-NAME.", show_default=False),
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Start from step 0 even if the kernel's last session could be resumed.")] = False,
) -> None:
    """Session after session on Kaggle until the run is done: push, wait, attach the output, push again."""
    from kit.remote.chain import chain as run_chain
    from kit.remote.client import connect
    from kit.remote.metadata import kernel_folder

    kernel = kernel_folder(name)
    if kernel.name == "study":
        raise KitError(
            "kit chain goes by the steps of one run, and a share of a study has many. When its session has ended, push it again with the "
            "same words: kit push study --study NAME --shard k/n. It goes on from its own output."
        )
    story = run_chain(
        kernel,
        connect(say),
        folder=out or chain_folder(kernel),
        max_sessions=max_sessions,
        until=until,
        timeout=session_limit(timeout),
        via=via,
        anew=anew,
    )
    say(f"{story.ref}: {story.state} after {counted(len(story.steps), 'session')}, step {story.step:,}")


@app.command(rich_help_panel="Kaggle", epilog="Example: `kit pull record`\n\nOnly the log: `kit pull record --pattern log.txt`")
def pull(
    name: KernelArgument,
    pattern: Annotated[
        str | None, typer.Option(help="A file's name, or a regular expression for whole names; default: the CSV, its student and report.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to fetch into; default: submissions/DATE-NAME, with a ledger's line, or runs/KERNEL for a study's journal.",
            show_default=False,
        ),
    ] = None,
    chained: Annotated[
        Path | None,
        typer.Option("--chain", help="The chain's folder, if it was started with --out.", show_default=False),
    ] = None,
    study: StudyOption = None,
    arms: ArmOption = None,
    shard: ShardOption = "1/1",
    seeds: SeedsOption = 1,
) -> None:
    """Fetch what a kernel's newest session, or a chain's furthest, left on Kaggle, compared with what its run wrote down, and file it."""
    from kit.remote.client import connect
    from kit.remote.metadata import kernel_folder, read_metadata
    from kit.remote.pull import WANTED
    from kit.remote.pull import pull as fetch

    kernel = kernel_folder(name)
    part, kaggle = share("pull", kernel.name, study, arms or [], shard, seeds), connect(say)
    if part:
        ref = ref_of(part[0], kernel, kaggle.user)
        pattern, out = pattern or rf"{study}\.jsonl", out or Path("runs") / ref.partition("/")[2]
    else:
        file = (chained or chain_folder(kernel)) / "chain.json"
        if chained and not file.is_file():
            raise KitError(f"There is no {file}. Give --chain the folder that kit chain was given as --out.")
        ref = furthest(file, read_metadata(kernel, kaggle.user)["id"], kaggle)
    for file in fetch(kaggle, ref, kernel.name, Path("submissions"), pattern or WANTED, out):
        say(f"{file}: {file.stat().st_size:,} bytes")


def furthest(file: Path, ref: str, kaggle: Any) -> str:
    """The kernel that brought a chain of `ref` furthest, of a pair that takes turns maybe the other one, with the version where it has a
    newer one; `ref` where there is no chain."""
    from kit.remote.push import newest_version
    from kit.remote.story import read_story

    if not (reached := read_story(file, ref).furthest):
        return ref
    if reached.ref != ref:
        say(f"{file}: the run is furthest in {reached.ref}, whose output is pulled. Move that file away to pull {ref}'s.")
    if (newest := newest_version(kaggle, reached.ref).number) <= reached.version:
        return reached.ref
    say(
        f"{file}: the run is furthest in version {reached.version}, whose output is pulled, not the newest's, {newest}. A copy lies in "
        f"{file.parent / 'output'}."
    )
    return f"{reached.ref}/{reached.version}"


@app.command(
    rich_help_panel="Kaggle", epilog="Example: `kit submit runs/record`\n\nWhat was pulled: `kit submit submissions/2026-11-21-record`"
)
def submit(
    place: Annotated[Path, typer.Argument(metavar="SUBMISSION", help="A run's folder, one of submissions/, or a CSV.")],
    rules: Annotated[
        str | None,
        typer.Option("--competition", help=f"One of {', '.join(ON_KAGGLE)}; default: the run's, else hw13-2023.", show_default=False),
    ] = None,
    data: ComparedOption = None,
    wait: Annotated[bool, typer.Option(help="Wait for the score.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, show the message; send nothing.")] = False,
) -> None:
    """Hand a checked CSV in to its Kaggle competition, once, and write its score into the ledger."""
    from kit.remote.client import connect
    from kit.remote.submit import read_entry
    from kit.remote.submit import submit as hand_in

    entry = read_entry(place, rules, say, data)
    if dry_run:
        say(f"{entry.csv} would go to {entry.rules.slug} with the message: {entry.message()}")
        return
    hand_in(entry, connect(say), ledger_folder(), wait=wait)


def ledger_folder() -> Path:
    """Where ledger.csv lies: in the clone's submissions/, elsewhere in the working folder."""
    return submissions_folder() or Path()


@app.command(rich_help_panel="Kaggle", epilog="Example: `kit ledger`")
def ledger(
    fetch: Annotated[bool, typer.Option(help="Ask Kaggle for the scores that are still missing.")] = True,
) -> None:
    """What was made and handed in, with its score and how far validation was off."""
    from kit import ledger as book
    from kit.remote.client import connect
    from kit.remote.submit import fetch_scores

    folder = ledger_folder()
    lines = book.read(folder)
    if not lines:
        raise KitError(f"There is no {folder / 'ledger.csv'} yet. A run of a competition's whole data set in a clone's folder writes one.")
    try:
        if fetch and any(map(book.lacks_a_score, lines)):
            fetch_scores(connect(say), folder)
    finally:  # what is known is shown, too, where Kaggle can't be asked
        console.print(as_table(book.read(folder)))


def as_table(lines: list[dict[str, str]]) -> Table:
    """The ledger in 80 columns: its numbers whole, long names folded, private scores where there are any. gap: public − validation."""
    from kit.ledger import day, four_places, gap

    private = ["private"] if any(line["private_score"] for line in lines) else []
    table = Table(box=box.SIMPLE, show_edge=False, padding=0)
    table.add_column("submission", overflow="fold")
    for heading in ("made", "parameters", "bytes", "validation", "public", "gap", *private, "handed\nin"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        off = gap(line)
        table.add_row(
            escape(line["submission"]),
            day(line["date"]),
            *(line[name] for name in ("parameters", "bytes")),
            four_places(line["validation_accuracy"]),
            line["public_score"],
            "" if off is None else f"{off:+.4f}",
            *(line["private_score"] for _ in private),
            day(line["handed_in"]),
        )
    return table
