"""An earlier output of a run, taken over from wherever it is attached: the one that is furthest and whole wins.

Kaggle mounts inputs as `/kaggle/input/<slug>` or `/kaggle/input/<kind>/…/<slug>`, so an output is known by what it holds, never by its
path; and by its checkpoints, never by a file's age, which is the mount's.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.config.differences import differences
from kit.config.schema import Config
from kit.console import Log
from kit.errors import KitError
from kit.files import StorageError
from kit.train.checkpoint import FOLDER, begun_in, described, saved_in, steps_done, whole


def take_over(config: Config, attached: Sequence[Path], out: Path, log: Log) -> Path | None:
    """Copy the furthest output of this run into `out`, unless that is as far. Returns where it was; None where nothing was taken.

    Raises:
        KitError: `out` is empty, and all that is attached of this recipe is of another config: to begin anew unasked could cost a
            session. Or `out` holds another run.
    """
    there = {folder: begun_with(folder, log) for place in attached for folder in outputs(place)}
    of_recipe = {folder: saved for folder, saved in there.items() if saved and saved["recipe"] == config.recipe}
    changed = {folder: differences(saved, config.settled().model_dump(mode="json")) for folder, saved in of_recipe.items()}
    ours = [folder for folder, changes in changed.items() if not changes]
    if changed and not ours and not saved_in(out):
        folder, changes = next(iter(changed.items()))
        raise KitError(
            f"{folder} is an output of {config.recipe!r} with another config: {'; '.join(changes[:6])}. Run it as it was begun, or take "
            "it out of what is attached (a kernel's kernel_sources) to begin anew."
        )
    best = max(ours, key=lambda folder: steps_done(folder, log), default=None)
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
    folders = {path.parent for path in place.rglob("*.pt") if described(path)}
    return sorted(folder.parent if folder.name == FOLDER else folder for folder in folders)


def begun_with(folder: Path, log: Log) -> dict[str, Any] | None:
    """The config in an output's newest checkpoint that is whole; None where there is none, or it is not this kit's to read."""
    try:
        return next((content["config"] for _, content in whole(reversed(saved_in(folder)), log)), None)
    except KitError as error:
        log(f"passed over: {error}")
        return None


def copy_output(source: Path, target: Path) -> None:
    """What a run leaves, checkpoints last: without them nothing goes on from a copy that was interrupted.

    Contents alone are copied: an input mount is read-only, and modes that came along would make the copy so. Kaggle's own files
    (`__results__.html`) and left over temporary ones stay behind.
    """
    checkpoints = {saved.path: target / FOLDER / saved.path.name for saved in saved_in(source)}
    others = {file: target / file.name for file in source.iterdir() if file.is_file() and file.name[0] not in "_." and not described(file)}
    for file, place in (others | checkpoints).items():
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_name(f".{place.name}.tmp")
        try:
            shutil.copyfile(file, unfinished)
            unfinished.replace(place)
        except OSError as error:
            raise StorageError.of(place, error) from None
