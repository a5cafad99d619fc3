"""Kaggle's own client, asked through its library: the answers come back as values, and none of its words are taken for success.

The client ends with exit code 0 when Kaggle refused a push, dropped an input or failed a run; so nothing here goes by an exit code. It
retries nothing and waits for ever; so every call here has a time limit, and those that change nothing are asked again.
"""

import contextlib
import io
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import KitError

SECONDS = 120  # that one call may take
PAUSES = (2, 5, 15, 45)  # seconds before asking again
PASSING = {408, 425, 429, 500, 502, 503, 504}
REMEDIES = {
    401: "The token is wrong or has expired: make a new one on kaggle.com/settings and save it as ~/.kaggle/access_token.",
    403: "This account may not do that: join the competition and accept its rules on Kaggle, and compare the owner in `id` with your name.",
    404: "There is no such thing under that name: compare `id` and the sources in kernel-metadata.json with Kaggle's pages.",
    409: "Another kernel has that title or name: the slug in `id` must be what Kaggle makes of the title.",
}


class Unreachable(Exception):
    """No answer came, or one that says to ask later; whether Kaggle has done what was asked is not known."""


@dataclass(frozen=True)
class Kaggle:
    """A client that has credentials. sleep: waits between two attempts; a test brings its own."""

    api: Any
    sleep: Callable[[float], None] = time.sleep

    @property
    def user(self) -> str:
        """The account's name."""
        return self.api.config_values.get("username") or ""

    def once(self, call: Callable[[Any], Any]) -> Any:
        """One answer of `call(kernels_service)`.

        Raises:
            Unreachable: the connection broke, or Kaggle is too busy.
            KitError: Kaggle refused, in its words and with what to do.
        """
        import requests

        limit = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SECONDS)
        try:
            with self.api.build_kaggle_client() as kaggle:
                return call(kaggle.kernels.kernels_api_client)
        except requests.exceptions.HTTPError as error:
            code = error.response.status_code if error.response is not None else 0
            if code in PASSING:
                raise Unreachable(f"Kaggle answers {code}: {error}") from None
            raise KitError(f"Kaggle refuses ({code}): {error}. {REMEDIES.get(code, '')}".strip()) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise Unreachable(f"no answer from Kaggle ({type(error).__name__})") from None
        finally:
            socket.setdefaulttimeout(limit)

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """`once`, again after a pause while there is no answer: for calls that change nothing.

        Raises:
            KitError: Kaggle refused, or could not be reached for a minute.
        """
        for pause in (*PAUSES, None):
            try:
                return self.once(call)
            except Unreachable as error:
                if pause is None:
                    raise KitError(f"{str(error)[0].upper()}{str(error)[1:]}, {len(PAUSES) + 1} times. Try again later.") from None
                self.sleep(pause)


def connect() -> Kaggle:
    """The client with this user's credentials.

    Raises:
        KitError: there are none.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # the client explains itself at length at import
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        try:
            api.authenticate()
        except SystemExit:
            raise KitError(
                "There are no Kaggle credentials here. Make a token on kaggle.com/settings and save it as ~/.kaggle/access_token "
                "(or set KAGGLE_API_TOKEN)."
            ) from None
    return Kaggle(api)


def kernel_folder(name: str) -> Path:
    """`kernels/NAME` of the clone that the command runs in.

    Raises:
        KitError: with the kernels that there are.
    """
    folder = Path("kernels") / name
    if not (folder / "main.py").is_file():
        there = ", ".join(sorted(head.parent.name for head in Path("kernels").glob("*/main.py"))) or "none"
        raise KitError(f"There is no {folder / 'main.py'}. Kernels here: {there}. Run it in a clone's folder.")
    return folder
