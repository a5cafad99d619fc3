"""`kit doctor`: each thing that a run leans on, what was found, and what to do about it."""

import ast
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.table import Column, Table
from rich.text import Text

from kit.console import console, counted
from kit.errors import KitError
from kit.remote import credentials as secrets
from kit.remote.metadata import kernels_here

Verdict = Literal["ok", "note", "broken"]
Finding = tuple[Verdict, str, str]  # verdict, what was found, what to do
OPTIONAL = {"optuna", "ray", "onnx", "onnxruntime", "tensorboard", "triton"}  # asked for where they are wanted; the last on a GPU alone
PAIRS = {"2.10": "0.25", "2.11": "0.26"}  # torch and the torchvision that fits it
GIGABYTE = 1e9
LOOKS = 200  # photos that are opened
ORIENTATION = 0x0112  # EXIF's tag; 2 to 8 ask for a turn or a mirror
SECONDS = 10.0  # that Kaggle may be silent here


def examine(data: Path | None, cache: Path) -> bool:
    """Print the table; True when nothing is broken."""
    table = Table("", Column("what", no_wrap=True), Column("found → what to do", overflow="fold"), show_edge=False)
    works = True
    for name, look in checks(data, cache):
        verdict, found, remedy = outcome(look)
        works &= verdict != "broken"
        colour = {"ok": "green", "note": "yellow", "broken": "red"}[verdict]
        told = Text(f"{found} → {remedy}" if remedy else found)  # no markup: a path may hold what rich takes for that
        table.add_row(f"[{colour}]{verdict}[/]", name, told)
    console.print(table)
    return works


def outcome(look: Callable[[], Finding]) -> Finding:
    """What a check finds. One that breaks is a finding, too: the others are still asked."""
    try:
        return look()
    except ImportError as error:
        return "broken", str(error), "pip install -r requirements.txt"
    except Exception as error:
        return "broken", f"{type(error).__name__}: {error}", "compare the installed versions with requirements.txt"


def checks(data: Path | None, cache: Path) -> Iterator[tuple[str, Callable[[], Finding]]]:
    yield "Python", python
    yield "torch", torch_pair
    yield "device", device
    yield "libraries", libraries
    yield "disk here", lambda: disk(Path())
    yield "disk for the cache", lambda: disk(cache)
    yield "memory", memory
    yield "Kaggle credentials", credentials
    yield "Kaggle client and GPU time", kaggle
    if kernels := kernels_here():
        yield "bundles", lambda: bundles(kernels)
    if data is not None:
        yield "data set", lambda: dataset(data)


def python() -> Finding:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return ("ok" if fits else "note"), platform.python_version(), "" if fits else "tested with 3.11 and 3.12"


def torch_pair() -> Finding:
    """A newer torchvision beside an older torch breaks at import."""
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError) as error:
        return "broken", str(error).splitlines()[0], "install the pair that requirements.txt pins"
    found = f"{torch.__version__} with torchvision {torchvision.__version__}"
    wanted = PAIRS.get(".".join(torch.__version__.split(".")[:2]))
    if wanted and not torchvision.__version__.startswith(wanted):
        return "broken", found, f"this torch needs torchvision {wanted}"
    return "ok", found, ""


def device() -> Finding:
    from kit.device import choose_device

    says = choose_device().says
    if says.startswith("CPU"):
        return "note", says, "fine for smoke tests; a 600-epoch run wants a GPU"
    return ("note", says, "choose a T4 on Kaggle") if "no code for" in says else ("ok", says, "")


def libraries() -> Finding:
    missing = sorted(name for name in imported() if find_spec(name) is None)
    return ("broken", f"missing: {', '.join(missing)}", "pip install -r requirements.txt") if missing else ("ok", "all there", "")


def imported() -> set[str]:
    """The modules of others that the kit's files ask for, whichever way the kit was installed."""
    found = set()
    for file in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - OPTIONAL - {"kit"}


def disk(place: Path) -> Finding:
    """The decoded Food-11 is 3.3 GB at 256 px, a run's folder below 0.3 GB; a split that doesn't fit is refused before it is decoded."""
    place = place.resolve()
    there = next(p for p in (place, *place.parents) if p.exists())
    if not there.is_dir():
        return "broken", f"{there} is no folder", "choose another --out or --cache"
    if not os.access(there, os.W_OK):
        return "broken", f"{place} can't be written to", "choose another --out or --cache"
    free = shutil.disk_usage(there).free / GIGABYTE
    return ("ok" if free > 4 else "note"), f"{free:.1f} GB free at {place}", "" if free > 4 else "decoded, Food-11 takes 3.3 GB"


def memory() -> Finding:
    from kit.processes import cores

    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIGABYTE
    except (ValueError, OSError):
        return "note", "not told by this system", ""
    return ("ok" if size > 6 else "note"), f"{size:.0f} GB, {counted(cores(), 'core')}", "" if size > 6 else "use --set data.workers=1"


def credentials() -> Finding:
    """Whether there are some; never what they are."""
    if there := secrets.credentials():
        return "ok", ", ".join(there), ""
    return "note", "none", "needed for Kaggle only: kaggle.com/settings, Create New Token, saved as ~/.kaggle/access_token"


def kaggle() -> Finding:
    """The client's version and, where there are credentials, what is left of the week's GPU time."""
    from kit.remote.client import connect
    from kit.remote.quota import gpu_time

    found = f"kaggle {version('kaggle')}"
    if not secrets.credentials():
        return "note", f"{found}, not asked", "without credentials nothing can be asked"
    try:
        client = replace(connect(), seconds=SECONDS, sleep=lambda _: None)
        time = gpu_time(client)
    except KitError as error:
        return "note", found, str(error)
    if time is None:
        return "ok", f"{found}, as {client.user}", "Kaggle names no GPU time"
    used, allowed = time
    spent = "" if used < allowed else "wait for the week's new hours"
    return ("note" if spent else "ok"), f"{found}, as {client.user}: {used:.1f} of {allowed:.1f} GPU hours used", spent


def bundles(kernels: list[Path]) -> Finding:
    from kit.remote.bundle import LIMIT, compose, read_head

    try:
        sizes = [f"{kernel.name} {len(compose(kernel, read_head(kernel)).encode()):,}" for kernel in kernels]
    except KitError as error:
        return "broken", str(error), ""
    return "ok", f"{', '.join(sizes)} of {LIMIT:,} bytes", ""


def dataset(data: Path) -> Finding:
    from kit.config.competitions import COMPETITIONS
    from kit.data.decode import photo_size
    from kit.draft import find_with_validation

    try:
        found, _ = find_with_validation(data)
    except (KitError, OSError) as error:  # the latter: a permission, a mount
        return "broken", str(error), "as it says; docs/your-own-photos.md has the shapes that are known"
    teachers = sorted({rules.teacher_file for rules in COMPETITIONS.values() if (found.root / rules.teacher_file).is_file()})
    beside = f"teacher {', '.join(teachers)}" if teachers else "no teacher beside it: a run trains its own, or takes --teacher"
    says, paths = f"{found.root}\n{found.counts()}\n{beside}", [path for split in found.splits for path in split.paths]
    looked_at, remedies = paths[:: -(-len(paths) // LOOKS)], []
    if closed := [path for path in looked_at if photo_size(path) == (0, 0)]:
        says += f"\n{len(closed)} of {counted(len(looked_at), 'photo')} can't be opened, {closed[0]} for one"
        remedies.append("fetch them again, or save them as JPEG: a .heic may be called .jpg; `kit run … --tiny` names all of them")
    if number := turned(looked_at):
        says += f"\nby their EXIF {number} of {counted(len(looked_at), 'photo')} want to be turned"
        remedies.append("the kit takes photos as they are stored: turn them, for example with mogrify -auto-orient")
    return ("note" if remedies else "ok"), says, "; ".join(remedies)


def turned(paths: Sequence[Path]) -> int:
    """How many of these photos ask for a turn by their EXIF. One that can't be read asks for none."""
    from kit.data.decode import UNREADABLE, open_photo

    number = 0
    for path in paths:
        with suppress(*UNREADABLE), warnings.catch_warnings(), open_photo(path) as photo:
            warnings.simplefilter("ignore")  # PIL's, of damaged EXIF
            number += photo.getexif().get(ORIENTATION) in range(2, 9)
    return number
