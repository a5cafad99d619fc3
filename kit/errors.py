"""The two ways a run ends early that are not bugs, and what is said of a name that isn't there."""

import difflib
from collections.abc import Iterable


class KitError(Exception):
    """A user's mistake or a refusal: names the thing, the value and the remedy in one paragraph. No traceback is shown."""


class Suspended(Exception):
    """This session's time is over before the plan is. Not an error: the same command goes on from here."""


def in_brief(error: Exception, most: int = 160) -> str:
    """The beginning of what a library says, on one line, for a message; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """The three names most like it, for a message; where none is like it, all that there are."""
    known = list(known)
    return ", ".join(difflib.get_close_matches(name, known) or known)
