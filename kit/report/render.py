"""A template of this package filled in, and how the page writes numbers."""

import importlib.resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from kit.console import counted
from kit.duration import say_duration


def render(name: str, values: dict[str, Any]) -> str:
    """A template of this package, everything in it escaped that is not Markup: names of classes and files are other people's."""
    loader = FunctionLoader(template)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "short": short, "brief": brief, "duration": say_duration}
    environment.filters |= {"number": "{:,}".format, "counted": counted}
    environment.globals["style"] = Markup(template("style.css"))
    environment.globals["head"] = Markup(template("head.html"))
    return environment.get_template(name).render(values)


def template(name: str) -> str:
    return (importlib.resources.files("kit.report") / name).read_text(encoding="utf-8")


def percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}\u202f%"


def whole_percent(share: float) -> str:
    return percent(share, 0)


def points(change: float) -> str:
    """Of two shares, in hundredths, with its sign."""
    return f"{100 * change:+.1f}".replace("-", "−") if abs(change) >= 0.0005 else "0.0"


def short(count: float) -> str:
    """`1.81 G`, `35.1 k`."""
    count = float(f"{count:.3g}")  # or 999,999 would be 1e+03 k
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}\u202f{unit}"
    return f"{count:g}"


def brief(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
