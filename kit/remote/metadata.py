"""kernel-metadata.json: what Kaggle is told of a kernel, every field said and of a value that the kit's scripts go with.

Kaggle's client ignores what it does not know, takes defaults that are not those that are documented, and Kaggle drops or rewrites what does
not fit; so all that is wrong is said before anything is sent.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kit.errors import KitError
from kit.files import write_durably

FILE = "kernel-metadata.json"
NOBODY = "YOUR-USERNAME"
LONGEST = 48  # characters of a title: Kaggle takes 50, and the second kernel of a pair adds two
Source = Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+(/\d+)?$")]
Model = Annotated[str, Field(pattern=r"^[^/\s]+(/[^/\s]+){3}/\d+$")]
Slug = Annotated[str, Field(pattern=r"^[^/\s]+$")]
WANTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list in [ ]",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}
FORMS = {"id": "owner/slug", "competition_sources": "slug", "model_sources": "owner/model/framework/variation/version"}


class Metadata(BaseModel):
    """The file's fields. What has one value only is what a bundle is: a script in Python."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    title: Annotated[str, Field(min_length=5, max_length=LONGEST)]
    code_file: Literal["build/main.py"]
    language: Literal["python"]
    kernel_type: Literal["script"]
    is_private: bool
    enable_gpu: bool
    enable_tpu: bool
    enable_internet: bool
    machine_shape: str | None
    dataset_sources: list[Source]
    competition_sources: list[Slug]
    kernel_sources: list[Source]
    model_sources: list[Model]
    keywords: list[str]
    docker_image: str | None
    docker_image_pinning_type: Literal["original", "latest"] | None


def read_metadata(kernel: Path, user: str) -> dict[str, Any]:
    """kernel-metadata.json, checked, with the account's name where the file still says YOUR-USERNAME.

    Raises:
        KitError: with all that is wrong with it.
    """
    file = kernel / FILE
    try:
        metadata = json.loads(metadata_text(kernel))
    except ValueError as error:
        raise KitError(f"{file} can't be read ({error}).") from None
    if wrong := faults(metadata, user) if isinstance(metadata, dict) else ["it is no JSON object"]:
        raise KitError(f"{file} is not to be pushed: {'; '.join(wrong)}.")
    owner = user or metadata["id"].partition("/")[0]
    mine = lambda ref: ref.replace(f"{NOBODY}/", f"{owner}/", 1)  # noqa: E731
    sources = {f"{kind}_sources": [mine(source) for source in metadata[f"{kind}_sources"]] for kind in ("dataset", "kernel", "model")}
    return metadata | {"id": mine(metadata["id"])} | sources


def metadata_text(kernel: Path) -> str:
    """Raises:
    KitError: there is no kernel-metadata.json, or it is no text.
    """
    try:
        return (kernel / FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KitError(f"{kernel / FILE} can't be read ({error}).") from None


def write_owner(kernel: Path, user: str) -> bool:
    """Put the account's name for YOUR-USERNAME in kernel-metadata.json, for the plain `kaggle` command; whether there was one to put."""
    text = metadata_text(kernel)
    if not user or f"{NOBODY}/" not in text:
        return False
    write_durably(kernel / FILE, text.replace(f"{NOBODY}/", f"{user}/").encode())
    return True


def faults(metadata: dict[str, Any], user: str) -> list[str]:
    """What would go astray, in words; empty when it may be pushed."""
    from slugify import slugify  # what the client makes slugs with

    try:
        there = Metadata.model_validate(metadata)
    except ValidationError as error:
        return [in_words(wrong) for wrong in error.errors()]
    (owner, slug), found = there.id.split("/"), []
    if slug != slugify(there.title):
        found.append(f"the slug {slug!r} is not what Kaggle makes of the title {there.title!r}: {slugify(there.title)!r}")
    if owner == NOBODY and not user:
        found.append(f"id says {NOBODY}, and the token does not tell the account's name: write it there")
    elif owner != NOBODY and user and owner.lower() != user.lower():
        found.append(f"id names {owner!r}, the credentials are those of {user!r}")
    return found


def in_words(wrong: Any) -> str:
    """One of pydantic's errors."""
    name = str(wrong["loc"][0])
    if wrong["type"] == "missing":
        return f"{name} must be said, the client's defaults are not those that are documented"
    if wrong["type"] == "extra_forbidden":
        return f"{name} is unknown and would be ignored"
    wanted = WANTED.get(wrong["type"], FORMS.get(name, "owner/slug")).format(**wrong.get("ctx", {}))
    return f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']!r:.80}, wanted is {wanted}"


def kernels_here() -> list[Path]:
    """The folders of kernels/ in the clone that the command runs in."""
    return sorted(head.parent for head in Path("kernels").glob("*/main.py"))


def kernel_folder(name: str) -> Path:
    """`kernels/NAME` of that clone.

    Raises:
        KitError: with the kernels that there are.
    """
    if (folder := Path("kernels") / name) not in (here := kernels_here()):
        there = ", ".join(kernel.name for kernel in here) or "none"
        raise KitError(f"There is no {folder / 'main.py'}. Kernels here: {there}. Run it in a clone's folder.")
    return folder
