"""The user's own Kaggle secrets: where they lie, so that they can be kept out of all that is sent, written or said.

Nobody else's can be known, and a pattern for them would be a guess.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

from kit.errors import KitError

VARIABLES = ("KAGGLE_KEY", "KAGGLE_API_TOKEN")
FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")  # the last by `kaggle auth login`
SECRET = ("key", "access_token", "refresh_token")  # in those that are JSON
SHORTEST = 8  # characters; a shorter value would be found in ordinary text


def credentials() -> dict[str, tuple[str, ...]]:
    """The secrets by the variable or the file that holds them; empty where there are none."""
    found: dict[str, tuple[str, ...]] = {name: (os.environ.get(name, ""),) for name in VARIABLES}
    found |= {str(file): read_secrets(file) for file in token_files()}
    token = Path(os.environ.get("KAGGLE_API_TOKEN", ""))  # the client takes a file's name there, too
    found[str(token)] = read_secrets(token)
    long = {source: tuple(secret for secret in secrets if len(secret) >= SHORTEST) for source, secrets in found.items()}
    return {source: secrets for source, secrets in long.items() if secrets}


def token_files() -> list[Path]:
    """Where a token may lie, there or not."""
    folders = dict.fromkeys((client_folder(), *(Path(folder).expanduser() for folder in ("~/.kaggle", "~/.config/kaggle"))))
    return [folder / name for folder in folders for name in FILES]


def client_folder() -> Path:
    """Where the client looks for kaggle.json: on Linux, where there is no ~/.kaggle, in the user's folder for settings."""
    home = Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle").expanduser()
    if os.environ.get("KAGGLE_CONFIG_DIR") or home.exists():
        return home
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "kaggle"


def read_secrets(file: Path) -> tuple[str, ...]:
    """A token file's text, or the key or tokens of a JSON file; empty where there are none."""
    try:
        text = file.read_text(encoding="utf-8").strip()
        return tuple(str(value) for name, value in json.loads(text).items() if name in SECRET) if file.suffix == ".json" else (text,)
    except (OSError, ValueError, AttributeError):
        return ()


def hide(text: str) -> str:
    """The text with each secret replaced by the name of its place: Kaggle's words and logs are not ours to trust."""
    for source, secrets in credentials().items():
        for secret in secrets:
            text = text.replace(secret, f"<{Path(source).name}>")
    return text


def refuse_credentials(files: dict[str, bytes]) -> None:
    """Raises:
    KitError: a file, by its name and content, holds one of the secrets.
    """
    for source, secrets in credentials().items():
        for name, content in files.items():
            if any(secret.encode() in content for secret in secrets):
                raise KitError(
                    f"{name} holds the value of {source}. What is bundled is sent to Kaggle and may be made public: take it out. "
                    "The kit needs no credential inside a kernel."
                )


def account() -> str:
    """The account's name as far as this machine knows it without asking Kaggle; empty where only a token is there."""
    if name := os.environ.get("KAGGLE_USERNAME"):
        return name
    for file in (client_folder() / "kaggle.json", Path("~/.kaggle/credentials.json").expanduser()):  # as the client asks them
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(file.read_text(encoding="utf-8"))["username"])
    return ""
