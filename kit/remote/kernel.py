"""A session on Kaggle, which all kernels share: an earlier output taken over, the one pipeline, an end before Kaggle's own.

Inputs appear as /kaggle/input/<slug> or as /kaggle/input/<kind>/…/<slug>, so nothing is looked for by its path: an earlier output is a
folder that holds run.json and checkpoints/, the data set one that holds training/ and evaluation/.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from kit.config.schema import Config, differences
from kit.errors import KitError

INPUT, WORKING = Path("/kaggle/input"), Path("/kaggle/working")


def session(
    config: Config, *, budget: str = "8h30m", data: Path | None = None, inputs: Path = INPUT, working: Path = WORKING
) -> dict[str, Any]:
    """One session of the run. A kernel that lists itself in kernel_sources goes on where its last version stopped.

    Args:
        budget: this session's time, from the start of the process. Kaggle ends a session after 9 hours and then may keep nothing.
        data: where the data set is looked for; None: among the inputs.
        inputs, working: Kaggle's folders; a test brings its own.
    Returns:
        run.json's content. A run that is suspended ends the script like one that is done, with exit code 0: Kaggle keeps that output.
        A refusal ends it with one paragraph and exit code 1.
    """
    from kit.data.cache import cache_folder
    from kit.pipeline import run
    from kit.train.budget import Budget, parse_duration

    try:
        limit = Budget(parse_duration(budget))
        take_over(config, inputs, working)
        return run(config, data or inputs, working, cache=cache_folder(None), budget=limit)
    except KitError as error:
        sys.exit(f"error: {error}")


def take_over(config: Config, inputs: Path, working: Path) -> Path | None:
    """Copy the newest earlier output of this run into `working` and return where it was; None where there is nothing to take over.

    Raises:
        KitError: what is attached is the recipe's, but of another config. To begin anew unasked could cost a session.
    """
    if (working / "run.json").is_file():
        return None
    changed = {folder: differences(record["config"], config.model_dump(mode="json")) for folder, record in outputs(config.recipe, inputs)}
    same = [folder for folder, changes in changed.items() if not changes]
    if changed and not same:
        folder, changes = next(iter(changed.items()))
        raise KitError(
            f"{folder} is an output of {config.recipe!r} with another config: {'; '.join(changes[:6])}. Run it as it was begun, or take "
            "that output out of the kernel's kernel_sources to begin anew."
        )
    if not same:
        return None
    copy_output(same[0], working)
    print(f"going on from {same[0]}", flush=True)
    return same[0]


def outputs(recipe: str, inputs: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, run.json's content) of every earlier output of a recipe, that with the latest session first.

    run.json's own account tells the time: what a mount says of a file's age is the mount's.
    """
    found = []
    for file in sorted(inputs.rglob("run.json")):
        record = read_record(file)
        if record.get("recipe") == recipe and (file.parent / "checkpoints").is_dir():
            found.append((file.parent, record))
    return sorted(found, key=lambda output: [entry["started"] for entry in output[1]["sessions"]][-1:], reverse=True)


def read_record(file: Path) -> dict[str, Any]:
    """A run.json's content, or nothing where a stranger's file has that name."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"recipe", "config", "sessions"} <= record.keys() else {}


def copy_output(source: Path, target: Path) -> None:
    """What a run leaves, run.json last: where it lies, all of it lies.

    Contents alone are copied: the input mount is read-only, and modes that came along would make the copy so. Kaggle's own files
    (`__results__.html`) and left over temporary ones stay behind.
    """
    files = [file for file in source.iterdir() if file.is_file() and file.name[0] not in "_."] + list(source.glob("checkpoints/*.pt"))
    for file in sorted(files, key=lambda file: file.name == "run.json"):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
