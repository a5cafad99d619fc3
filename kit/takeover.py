"""An earlier output of a run, taken over from wherever it is attached: the one that is furthest and whole wins.

Kaggle mounts inputs as `/kaggle/input/<slug>` or `/kaggle/input/<kind>/…/<slug>`, so an output is known by what it holds, never by its
path; and by its checkpoints, never by a file's age, which is the mount's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.config.differences import differences
from kit.config.schema import Config
from kit.console import Log
from kit.errors import KitError
from kit.events import FOLDER as EVENTS
from kit.files import make_folder, read_object, write_durably
from kit.names import RECORD
from kit.train.checkpoint import FOLDER, begun_in, described, run_of, saved_in, steps_done, whole


@dataclass(frozen=True)
class Output:
    """An earlier output of the run's recipe. obstacle: why the run can't go on from it, None where it can."""

    folder: Path
    obstacle: str | None


def take_over(config: Config, attached: Sequence[Path], out: Path, log: Log) -> Path | None:
    """Copy the furthest output of this run into `out`, unless that is as far. Returns where it was; None where nothing was taken.

    Raises:
        KitError: `out` is empty, and all that is attached of this recipe is of another config or can't be resumed: to begin anew
            unasked could cost a session. Or `out` holds another run.
    """
    folders = dict.fromkeys(folder for place in attached for folder in outputs(place))  # places may lie in each other
    ours = [output for folder in folders if (output := of_this_recipe(folder, config, log))]
    usable = [output.folder for output in ours if not output.obstacle]
    if ours and not usable and not saved_in(out):
        raise KitError(
            f"{ours[0].folder} is an output of {config.recipe!r} that can't be resumed: {ours[0].obstacle}. Run it as it was begun, or "
            "take it out of what is attached (a kernel's kernel_sources) to begin anew."
        )
    best = max(usable, key=lambda folder: steps_done(folder, log), default=None)
    if best is None or (saved_in(out) and steps_done(best, log) <= steps_done(out, log)):
        return None
    begun_in(out, config.settled().model_dump(mode="json"), log)  # another run's files would be overwritten
    copy_output(best, out)
    log(f"going on from {best}, step {steps_done(out, log):,}")
    return best


def outputs(place: Path) -> list[Path]:
    """The folders at or below `place` that hold an output, known by the names of its checkpoints.

    They lie in `checkpoints/`, or beside run.json in a Kaggle data set, which is uploaded without folders.
    """
    return sorted({run_of(path) for path in place.rglob("*.pt") if described(path)})


def of_this_recipe(folder: Path, config: Config, log: Log) -> Output | None:
    """What a folder holds of the recipe, and whether this run can go on from it; None where it is another recipe's or a stranger's."""
    try:
        for _, content in whole(reversed(saved_in(folder)), log):
            if content["config"]["recipe"] != config.recipe:
                return None
            changes = differences(content["config"], config.settled().model_dump(mode="json"))
            return Output(folder, f"its config is another ({'; '.join(changes[:6])})" if changes else None)
        why = "no checkpoint in it is whole"
    except KitError as error:
        why = str(error).rstrip(".")
    log(f"{folder} is passed over: {why}")
    told = folder / RECORD
    return Output(folder, why) if told.is_file() and read_object(told.read_bytes()).get("recipe") == config.recipe else None


def copy_output(source: Path, target: Path) -> None:
    """What a run leaves, checkpoints last: without them nothing goes on from a copy that was interrupted.

    Contents alone are copied: an input mount is read-only, and modes that came along would make the copy so. Kaggle's own files
    (`__results__.html`) and left over temporary ones stay behind.
    """
    checkpoints = {saved.path: target / FOLDER / saved.path.name for saved in saved_in(source)}
    found = [file for file in (*source.iterdir(), *(source / EVENTS).rglob("*")) if file.is_file()]
    others = {file: target / file.relative_to(source) for file in found if file.name[0] not in "_." and not described(file)}
    for file, place in (others | checkpoints).items():
        write_durably(make_folder(place.parent) / place.name, file.read_bytes())
