"""One script from a kernel's head and the package: Kaggle is sent the text of `code_file` and nothing that lies beside it.

`kernels/<name>/main.py` stays a few readable lines. `build/main.py` is those lines below one long one that holds a zip of `kit` and of
torch-pruning, which Kaggle's image lacks. Equal sources give equal bytes (under one liblzma), so a bundle that changed nothing can be
told. Utility scripts attached as kernel sources were left out: they are reported not importable.
"""

import base64
import hashlib
import importlib.metadata
import inspect
import io
import json
import lzma
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.files import make_folder, read_object, write_durably
from kit.remote.credentials import refuse_credentials
from kit.remote.kernel import ENDS_AFTER
from kit.remote.metadata import FILE
from kit.version import STAMP, commit

CARRIED = "torch-pruning"  # pure Python, and all that the run needs beyond Kaggle's image
DOCSTRING = re.compile(r'\s*"""(?P<text>.*?)"""', re.DOTALL)
LIMIT = 1_000_000  # bytes of text, several times what the package takes
INSIST = """if __name__ == "__main__":  # kernel-metadata.json asks for a GPU
    from kit.remote.kernel import insist_on_gpu

    insist_on_gpu()

"""


def bundle(kernel: Path) -> Path:
    """Write `<kernel>/build/main.py` from `<kernel>/main.py`, and return it.

    Raises:
        KitError: the head is not in UTF-8, holds a credential, or makes a script that is no Python or over 1 MB.
    """
    return write_script(kernel, compose(kernel, read_head(kernel)))


def write_script(kernel: Path, text: str) -> Path:
    """`<kernel>/build/main.py` with that text, for the plain client and for the eye; another command may replace it at any moment."""
    built = make_folder(kernel / "build") / "main.py"
    write_durably(built, text.encode())
    return built


def compose(kernel: Path, head: str, least_step: int = 0, environment: Mapping[str, str] | None = None, timeout: int | None = None) -> str:
    """The script's text. least_step: of the run that its session goes on with; finding less, it stops at once. environment: variables of
    the session, where nothing else has set them. timeout: after which Kaggle will end it, seconds; it ends in order before. Raises as
    `bundle`."""
    files = kit_files() | carried_files()
    refuse_credentials({f"{kernel / 'main.py'}": head.encode()} | files)
    limit = {ENDS_AFTER: str(timeout)} if timeout else {}
    metadata = read_object(file.read_bytes()) if (file := kernel / FILE).is_file() else {}
    before = INSIST if metadata.get("enable_gpu") else ""
    text = script(kernel.name, before + head, pack(files), least_step, {**(environment or {}), **limit})
    refuse_broken(text, kernel / "main.py")
    return text


def notebook(kernel: Path) -> Path:
    """The same as an .ipynb, `<kernel>/build/main.ipynb`, for Kaggle's editor: the long line in a cell that is folded, the head in one to
    edit.

    Raises:
        KitError: as `bundle`.
    """
    head = read_head(kernel)
    loader, docstring = compose(kernel, head).removesuffix(head).strip(), DOCSTRING.match(head)
    cells: list[tuple[str, str, dict[str, Any]]] = [
        ("markdown", f"# {kernel.name}\n\n{docstring['text'].strip() if docstring else ''}", {})
    ]
    cells += [("code", loader, {"jupyter": {"source_hidden": True}, "_kg_hide-input": True}), ("code", head.strip(), {})]
    page = {
        "cells": [
            {"cell_type": kind, "id": f"kit-{i}", "metadata": metadata, "source": text.splitlines(keepends=True)}
            | ({"execution_count": None, "outputs": []} if kind == "code" else {})
            for i, (kind, text, metadata) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    built = make_folder(kernel / "build") / "main.ipynb"
    write_durably(built, (json.dumps(page, indent=1, ensure_ascii=False) + "\n").encode())
    return built


def read_head(kernel: Path) -> str:
    try:
        return (kernel / "main.py").read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise KitError(f"{kernel / 'main.py'} can't be bundled, it is not in UTF-8 ({error}): save it so.") from None


def kit_files() -> dict[str, bytes]:
    """This package's modules and the page's templates, and the commit they are of, by their place in the zip."""
    package = Path(__file__).parents[1]
    paths = [path for path in package.rglob("*") if path.suffix in (".py", ".html", ".css")]
    files = {path.relative_to(package.parent).as_posix(): path.read_bytes() for path in paths}
    return files | {f"{package.name}/{STAMP}": commit().encode()}


def carried_files() -> dict[str, bytes]:
    """torch-pruning as it is installed: its modules, its licence, and the head of its METADATA, which tells run.json the version.

    Raises:
        KitError: it isn't installed, or its installer has left no list of its files.
    """
    try:
        installed = importlib.metadata.files(CARRIED)
    except importlib.metadata.PackageNotFoundError:
        raise KitError(f"{CARRIED} is not installed, and a bundle carries it: pip install {CARRIED}.") from None
    if not installed:
        raise KitError(f"{CARRIED} has no list of its files (RECORD), so it can't be bundled: pip install --force-reinstall {CARRIED}.")
    files = {}
    for path in installed:
        if path.suffix == ".py" or "licenses" in path.parts or path.name.startswith("LICEN"):
            files[path.as_posix()] = path.read_binary()
        elif path.name == "METADATA":
            files[path.as_posix()] = path.read_binary().partition(b"\n\n")[0] + b"\n"  # below it is a README of 30 kB
    return files


def pack(files: dict[str, bytes]) -> bytes:
    """A zip that depends on names and contents alone (sorted, one timestamp, one system), compressed as one stream: 60 % of what it takes
    file by file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, content)
    return compressed(buffer.getvalue())


@cache
def compressed(archive: bytes) -> bytes:
    """A second's work, and all kernels carry the same packages."""
    return lzma.compress(archive, preset=9)


def script(name: str, head: str, archive: bytes, least_step: int, environment: Mapping[str, str]) -> str:
    first = 'import os, time; os.environ.setdefault("KIT_SESSION_STARTED", str(time.time()))  # the budget counts from here'
    if least_step:
        first += f'\nos.environ.setdefault("KIT_LEAST_STEP", "{least_step}")  # what the session before this one ended with'
    first += "".join(f"\nos.environ.setdefault({key!r}, {value!r})" for key, value in environment.items())
    digest, content = hashlib.sha256(archive).hexdigest(), base64.b64encode(archive).decode()
    return (
        f"# Written by `kit bundle {name}`, not to be edited. Below the long line stands kernels/{name}/main.py, the part to read.\n"
        f'{first}\n\n\n{inspect.getsource(unpack)}\n\nunpack("{digest}", "{content}")\n\n{head}'
    )


def refuse_broken(text: str, head: Path) -> None:
    """What Kaggle would refuse, or would only find out in a queue."""
    try:
        compile(text, str(head), "exec")
    except SyntaxError as error:
        raise KitError(f"{head} can't be bundled, Python refuses it ({error.msg}): {(error.text or '').strip()[:80]}") from None
    if len(text.encode()) > LIMIT:
        raise KitError(
            f"The bundle of {head} would have {len(text.encode()):,} bytes, more than {LIMIT:,}. Only code belongs in it: take large "
            "constants out of the head and the package, and attach data as a Kaggle data set."
        )


def unpack(digest: str, content: str) -> None:
    """Make the packages in `content`, a compressed zip in base64, importable here and in every process that is started from here.

    Its text travels at the top of a bundle, so it brings its own imports. Worker processes run it again: the folder is named by the
    content's sha256, and got that name when it was whole, so they find it ready.
    """
    import base64
    import io
    import lzma
    import os
    import shutil
    import sys
    import tempfile
    import zipfile

    folder = os.path.join(tempfile.gettempdir(), f"kit-{digest}")
    if not os.path.isdir(folder):
        unfinished = tempfile.mkdtemp(prefix=".kit-")
        zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(content)))).extractall(unfinished)
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not os.path.isdir(folder):
                raise
            shutil.rmtree(unfinished)  # another process was quicker
    if folder not in sys.path:
        sys.path.insert(0, folder)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, paths)])
