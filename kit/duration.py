"""Times as people write and read them."""

import re

from kit.errors import KitError

UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> float:
    """Seconds in `9h`, `30m`, `1h30m`, `90s` or `90`.

    Raises:
        KitError: it is written otherwise.
    """
    number = r"\d+(?:\.\d+)?"
    if not re.fullmatch(rf"{number}|({number}[hms])+", text):  # not 9h30, which would be half a minute more than 9h
        raise KitError(f"{text!r} is no duration. Write 9h, 30m, 1h30m or 90s.")
    return sum(float(n) * UNITS[u or "s"] for n, u in re.findall(rf"({number})([hms]?)", text))


def say_duration(seconds: float) -> str:
    """`9 h 05 min`, `4 min 10 s`, `12 s`."""
    whole = round(seconds)
    minutes, hours = round(whole / 60), round(whole / 60) // 60
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
