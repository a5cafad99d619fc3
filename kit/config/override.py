"""`--set section.field=value`: a config with other values, and what pydantic has against a value, in words."""

import difflib
import json
from typing import Any, get_args

from pydantic import ValidationError

from kit.config.fields import Section
from kit.config.schema import Config
from kit.errors import KitError


def override(config: Config, assignments: list[str]) -> Config:
    """Apply `section.field=value` assignments and validate the whole. Values are JSON, or else plain text.

    Raises:
        KitError: for an unknown field (with the nearest names) or a value that the field refuses.
    """
    merged = config.model_dump(mode="json")  # lists, whose places can be set
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise KitError(f"--set {assignment}: write section.field=value, for example --set train.epochs=30.")
        *parents, last = path.split(".")
        place: Any = merged
        for name in parents:
            place = place[step_into(place, name, path)]
        place[step_into(place, last, path)] = parse_value(text)
    try:
        return type(config).model_validate(merged)
    except ValidationError as error:
        raise KitError(f"--set is refused: {in_words(error)}.") from None


def in_words(error: ValidationError) -> str:
    """What each field has against its value; for a field that is not there the nearest names. What a list lacks for want of a part that is
    refused itself is left out."""
    details, errors, fields = [], error.errors(), all_fields()
    for e in errors:
        if any(len(other["loc"]) > len(e["loc"]) > 0 and other["loc"][: len(e["loc"])] == e["loc"] for other in errors):
            continue
        name = ".".join(map(str, e["loc"])) or "config"
        says = e["msg"]
        if e["type"] == "extra_forbidden":
            near = difflib.get_close_matches(last, fields, n=3) if (last := str(e["loc"][-1])) not in fields else []
            says = f"there is no such field. Nearest: {', '.join(near)}" if near else "there is no such field here"
        if e["type"] == "model_type":
            says = (
                f"a section: write {name}.FIELD=VALUE, or where it is null the whole, as JSON with double quotes, --set "
                f"'{name}={{\"FIELD\": VALUE}}'; or null where none is allowed"
            )
        details.append(f"{name}: {says} (got {e['input']!r:.80})")
    return "; ".join(details)


def all_fields(section: type[Section] = Section) -> set[str]:
    """The names of the fields of every section."""
    return set(section.model_fields).union(*(all_fields(below) for below in section.__subclasses__()))


def step_into(place: Any, name: str, path: str) -> str | int:
    """The key or index `name` of a dumped section, or a KitError that lists the nearest names."""
    if isinstance(place, (list, tuple)) and name.isdecimal() and int(name) < len(place):
        return int(name)
    if isinstance(place, dict) and (name in place or path in places_of(name)):  # the latter: of a section that was just given as {…}
        return name
    if isinstance(place, dict):
        near = difflib.get_close_matches(name, place, n=3) or places_of(name) or sorted(place)
        raise KitError(f"--set {path}: there is no {name!r} here. Nearest: {', '.join(near)}.")
    whole, form = path[: path.index(f".{name}")], f'{{"{name}": …}}' if place is None else "…"
    has = "is null" if place is None else f"has no {name!r}"
    raise KitError(f"--set {path}: {whole} {has} here; set the whole of it: --set '{whole}={form}'.")


def places_of(field: str) -> list[str]:
    """The sections that have this field: `train.epochs` for `epochs`."""
    kinds = {name: (info.annotation, *get_args(info.annotation)) for name, info in Config.model_fields.items()}  # or None, some of them
    return [f"{name}.{field}" for name, each in kinds.items() if any(field in getattr(kind, "model_fields", {}) for kind in each)]


def parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"None": None, "True": True, "False": False}.get(text, text)
