"""The user's own Kaggle secrets: where they lie, so that they can be kept out of all that is sent, written or said.

Nobody else's can be known, and a pattern for them would be a guess.
"""

import json
import os
from pathlib import Path

from kit.errors import KitError

VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN")
FILES = ("kaggle.json", "access_token", "access_token.txt")
SHORTEST = 8  # characters; a shorter value would be found in ordinary text


def credentials() -> dict[str, str]:
    """Each secret by the variable or the file that holds it; empty where there is none."""
    found = {name: os.environ.get(name, "") for name in VARIABLES}
    found |= {str(file): read_secret(file) for file in token_files()}
    token = Path(found["KAGGLE_API_TOKEN"])  # the client takes a file's name there, too
    found[str(token)] = read_secret(token)
    return {source: secret for source, secret in found.items() if len(secret) >= SHORTEST}


def token_files() -> list[Path]:
    """Where a token may lie, there or not."""
    folders = dict.fromkeys((os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle", "~/.kaggle", "~/.config/kaggle"))
    return [Path(folder).expanduser() / name for folder in folders for name in FILES]


def read_secret(file: Path) -> str:
    """A token file's text, or the key of a kaggle.json; empty where there is none."""
    try:
        text = file.read_text(encoding="utf-8").strip()
        return str(json.loads(text)["key"]) if file.suffix == ".json" else text
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def hide(text: str) -> str:
    """The text with each secret replaced by the name of its place: Kaggle's words and logs are not ours to trust."""
    for source, secret in credentials().items():
        text = text.replace(secret, f"<{Path(source).name}>")
    return text


def refuse_credentials(files: dict[str, bytes]) -> None:
    """Raises:
    KitError: a file, by its name and content, holds one of the secrets.
    """
    for source, secret in credentials().items():
        for name, content in files.items():
            if secret.encode() in content:
                raise KitError(
                    f"{name} holds the value of {source}. What is bundled is sent to Kaggle and may be made public: take it out. "
                    "The kit needs no credential inside a kernel."
                )


def account() -> str:
    """The account's name as far as this machine knows it without asking Kaggle; empty where only a token is there."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle").expanduser()
    try:
        return str(json.loads((folder / "kaggle.json").read_text(encoding="utf-8"))["username"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
