"""In what two configs differ: all of it, to be shown, and what decides the result."""

import json
from typing import Any

from pydantic import ValidationError

from kit.config.schema import HARMLESS, Config

ABSENT = "(absent)"  # a field that only the other one has, as a loss more


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`section.field: old → new` for every field of `differing` that decides the result."""
    return described({name: pair for name, pair in differing(old, new).items() if name not in HARMLESS})


def described(pairs: dict[str, tuple[str, str]]) -> list[str]:
    return [f"{name}: {before} → {after}" for name, (before, after) in pairs.items()]


def differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """{"section.field": (old, new)}, as --set has values, for every field that differs between two dumped configs. One that an earlier
    version of the kit did not have is at its default there."""
    flat_old, flat_new = flatten(of_today(old)), flatten(of_today(new))
    pairs = {name: (flat_old.get(name, ABSENT), flat_new.get(name, ABSENT)) for name in flat_old | flat_new}
    return {name: (written(before), written(after)) for name, (before, after) in pairs.items() if before != after}


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def of_today(dumped: dict[str, Any]) -> dict[str, Any]:
    """A dumped config with the fields that have come since; as it is where it is no config any more."""
    try:
        return Config.model_validate(dumped).model_dump(mode="json")
    except ValidationError:
        return dumped


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": [1, 2]}} → {"a.b.0": 1, "a.b.1": 2}."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if children is None:
        return {prefix: value}
    return {k: v for name, child in children for k, v in flatten(child, f"{prefix}.{name}".lstrip(".")).items()}
