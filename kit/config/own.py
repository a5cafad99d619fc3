"""A recipe by its name, or one of the user's own: a Python file with a function `recipe()` that returns a Config.

The file is executed: it is the user's own program, named by them on the command line. What travels on is the config that it returned,
as values; no checkpoint or packed file holds code.
"""

import difflib
import runpy
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from kit.config.override import in_words
from kit.config.recipes import RECIPES, recipe
from kit.config.schema import Config
from kit.errors import KitError

FUNCTION = "recipe"


def find_recipe(name: str) -> Config:
    """The recipe of that name, or of that file: whatever ends in .py or has a slash in it is a file.

    Raises:
        KitError: an unknown name, with the nearest; or what is wrong with the file.
    """
    if name.endswith(".py") or "/" in name:
        return read(Path(name))
    if name not in RECIPES and Path(f"{name}.py").is_file():
        raise KitError(f"There is no recipe {name!r}, but a file {name}.py: write ./{name}.py.")
    return recipe(name)


def read(file: Path) -> Config:
    """What the function `recipe` of a file returns.

    Raises:
        KitError: there is no such file or function, it returns something else, or it fails, with the line that does.
    """
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [path.name for path in file.parent.glob("*.py")])
        there = f" Nearest: {', '.join(near)}." if near else ""
        raise KitError(f"There is no recipe file {file}.{there} `kit new NAME --data DIR` writes one.")
    sys.path.insert(0, beside := str(file.parent.resolve()))  # as python has it: what lies beside the file can be imported
    try:
        function = runpy.run_path(str(file)).get(FUNCTION)
        config = function() if callable(function) else None
    except (Exception, SystemExit) as error:  # a stranger to this kit wrote it, perhaps at midnight
        raise KitError(f"{file}{failing_line(file, error)}: {reason(error)}") from None
    finally:
        with suppress(ValueError):  # the file may have tidied up itself
            sys.path.remove(beside)
    if not callable(function):
        raise KitError(f"{file} has no function {FUNCTION}(). It must return a Config; `kit new NAME --data DIR` writes an example.")
    if not isinstance(config, Config):
        raise KitError(f"{FUNCTION}() in {file} gives {type(config).__name__}, a Config was expected. Is there a return in it?")
    return config


def failing_line(file: Path, error: BaseException) -> str:
    """`, line 12`, the deepest one in the file itself; nothing where the error does not tell."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def reason(error: BaseException) -> str:
    match error:
        case ValidationError():
            return f"{error.title} is refused: {in_words(error)}."
        case SyntaxError():
            return f"{error.msg}: {(error.text or '').strip()}"
        case KitError():
            return str(error)
    return f"{type(error).__name__}: {error}"
