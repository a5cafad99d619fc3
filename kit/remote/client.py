"""Kaggle's own client, asked through its library: the answers come back as values, and none of its words are taken for success.

The client ends with exit code 0 when Kaggle refused a push, dropped an input or failed a run; so nothing here goes by an exit code. It
retries nothing and waits for ever; so every call here has a time limit, and those that change nothing are asked again.
"""

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from kit.errors import KitError
from kit.remote.credentials import account, client_folder, credentials, hide, token_files

T = TypeVar("T")
OLDEST = (2, 2)  # of the client's versions: those before it lack calls that are made here, and end or print at import
PAUSES = (2, 5, 15, 45)  # seconds before asking again
LONG_PAUSE = 300.0  # seconds, after these, of a client that is patient
PASSING = {408, 425, 429, 500, 502, 503, 504}
REMEDIES = {
    401: "The token is wrong or has expired: make a new one on kaggle.com/settings and save it as ~/.kaggle/access_token.",
    403: "This account may not do that: join the competition and accept its rules on Kaggle, and compare the owner in `id` with your name.",
    404: "There is no such thing under that name: compare `id` and the sources in kernel-metadata.json with Kaggle's pages.",
    409: "Another kernel has that title or name: the slug in `id` must be what Kaggle makes of the title.",
}


class Refused(KitError):
    """Kaggle said no. code: of the answer, 0 where there is none."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Unreachable(Exception):
    """No answer came, or one that says to ask later or can't be read; whether Kaggle has done what was asked is not known.

    may_pass: whether hours of patience could help.
    """

    def __init__(self, message: str, may_pass: bool = True):
        super().__init__(message)
        self.may_pass = may_pass


@dataclass(frozen=True)
class Kaggle:
    """A client that has credentials. sleep: waits between two attempts; a test brings its own. seconds: that Kaggle may be silent.
    patience: seconds to go on asking after the first minute without an answer. say: is told of that, and of all that a verb does."""

    api: Any
    sleep: Callable[[float], None] = time.sleep
    seconds: float = 120.0
    patience: float = 0.0
    say: Callable[[str], None] = print

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds before each further attempt."""
        return (*PAUSES, *[LONG_PAUSE] * int(self.patience / LONG_PAUSE))

    @property
    def user(self) -> str:
        """The account's name."""
        return self.api.config_values.get("username") or ""

    def once(self, call: Callable[[Any], Any]) -> Any:
        """One answer of `call(client)`, whose attributes are Kaggle's services.

        Raises:
            Unreachable: the connection broke, Kaggle is too busy, or what came is no answer.
            Refused: in Kaggle's words and with what to do.
        """
        try:
            return self.answer(call)
        except Refused as refusal:
            if refusal.code != 401 or not self.renewed():
                raise
        return self.answer(call)

    def answer(self, call: Callable[[Any], T]) -> T:
        """`once`, with the token as it is."""
        with translated(), self.api.build_kaggle_client() as client:
            wait_no_longer(client.http_client()._session, self.seconds)  # the library has no setting for it
            return call(client)

    def renewed(self) -> bool:
        """Whether there is a new token: that of `kaggle auth login` lives twelve hours, a chain for days. The client asks for one when a
        command starts, and not in the half hour after the old one's end. Raises as `once`."""
        from kagglesdk.kaggle_creds import KaggleCredentials

        def exchange(client: Any) -> str | None:
            if there := KaggleCredentials.load(client):
                there.refresh_access_token()
            return there and there.get_access_token()

        settings = self.api.config_values
        if settings.get("auth_method") != "OAUTH":
            return False
        settings["token"] = None  # the exchange goes by the refresh token alone
        settings["token"] = self.answer(exchange)
        return bool(settings["token"])

    def ask(self, call: Callable[[Any], Any]) -> Any:
        """`once`, again after a pause while there is no answer: for calls that change nothing.

        Raises:
            Refused: in Kaggle's words.
            KitError: Kaggle could not be reached for a minute, or as long as `patience` says.
        """
        return self.again(lambda: self.once(call))

    def again(self, attempt: Callable[[], Any]) -> Any:
        """`attempt()`, again after a pause while it is Unreachable. Raises as `ask`."""
        for number, pause in enumerate((*self.pauses, None)):
            try:
                return attempt()
            except Unreachable as error:
                if pause is None or (number == len(PAUSES) and not error.may_pass):
                    raise KitError(f"{str(error)[0].upper()}{str(error)[1:]}, {number + 1} times. Try again later.") from None
                if number == len(PAUSES):
                    self.say(f"{error}; asking again every {LONG_PAUSE / 60:.0f} minutes, for {self.patience / 3600:.0f} h at most")
                self.sleep(pause)

    def deliver(self, send: Callable[[], T], arrived: Callable[[], T | None], what: str, lag: float = 0) -> T:
        """`send()`, for a call that must not be made twice: where its answer is lost, made again only when nothing has arrived.

        Args:
            arrived: what `send()` would have returned, None where Kaggle has not got it.
            lag: seconds that Kaggle needs at most to show what it has got.
        Raises:
            KitError: nothing arrived, as often as it was sent.
        """
        reason, pauses = "", (*self.pauses, PAUSES[0])  # the last one before it is asked a last time
        for pause in pauses:
            try:
                return send()
            except Unreachable as error:
                if str(error) != reason:
                    self.say(f"{error}; asking whether {what} arrived")
                reason = str(error)
            self.sleep(max(pause, lag))
            if (there := arrived()) is not None:
                return there
        raise KitError(f"{reason[0].upper()}{reason[1:]}, {len(pauses)} times, and {what} did not arrive. Try again later.")

    def transfer(self, name: str, url: str, content: bytes | None = None) -> bytes:
        """A file's content from the place that Kaggle gave for it, or `content` put there; again while it does not arrive.

        Raises:
            KitError: it was refused, or did not arrive for as long as `ask` asks.
        """
        import requests

        method, done = ("GET", "fetched") if content is None else ("PUT", "uploaded")

        def attempt() -> bytes:
            try:
                answer = requests.request(method, url, data=content, timeout=self.seconds)
            except OSError as error:  # requests' own are such
                raise Unreachable(f"the file {name} could not be {done} ({type(error).__name__})") from None
            says = f"could not be {done} ({answer.status_code} {answer.reason})"
            if answer.status_code in PASSING:
                raise Unreachable(f"the file {name} {says}")
            if not answer.ok:  # an address that has expired stays so, however long a chain is patient
                raise KitError(f"{name} {says}. Try again later.")
            return answer.content  # urllib3 has compared its length, as it was sent, with the announced one

        return self.again(attempt)


@contextlib.contextmanager
def translated() -> Any:
    """The library's exceptions, as ours."""
    import requests

    try:
        yield
    except requests.exceptions.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in PASSING:
            raise Unreachable(hide(f"Kaggle answers {code}: {error}")) from None
        raise Refused(hide(f"Kaggle refuses ({code}): {error}. {REMEDIES.get(code, '')}").strip(), code) from None
    except (requests.exceptions.RequestException, OSError) as error:
        raise Unreachable(f"no answer from Kaggle ({type(error).__name__})") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # a proxy's page, which passes; the last: a word of a newer Kaggle
        raise Unreachable(hide(f"an answer from Kaggle that can't be read ({error})"), may_pass=not isinstance(error, KeyError)) from None


def wait_no_longer(session: Any, seconds: float) -> None:
    """Give every request of a `requests` session a time limit."""
    import requests

    class Limited(requests.adapters.HTTPAdapter):
        def send(self, request: Any, **how: Any) -> Any:  # type: ignore[override]  # requests calls it so
            return super().send(request, **(how | {"timeout": seconds}))

    for scheme in ("http://", "https://"):
        session.mount(scheme, Limited())


def connect(say: Callable[[str], None] = print) -> Kaggle:
    """The client with this user's credentials, which tells `say` what it does.

    Raises:
        KitError: there are none, Kaggle does not know them, or it can't be reached to ask; or the client isn't installed.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # the client explains itself at length at import
        try:
            if tuple(map(int, (found := version("kaggle")).split(".")[:2])) < OLDEST:
                raise ImportError(f"{found} is too old")
            from kaggle.api.kaggle_api_extended import KaggleApi
        except ImportError as error:  # it does not ask for six
            raise KitError(f"Kaggle's client can't be imported ({error}): pip install 'kaggle>={OLDEST[0]}.{OLDEST[1]}' six.") from None

        api = KaggleApi()
        try:
            with translated():
                try:
                    api.authenticate()
                except (SystemExit, UnicodeError, AttributeError, TypeError):  # a file with a mark at its beginning; JSON and no object
                    raise KitError(no_credentials()) from None
        except Unreachable as error:
            raise KitError(f"Your token could not be checked: {error}. Try again later.") from None
    return Kaggle(api, say=say)


def no_credentials() -> str:
    there = ", ".join(credentials())
    if there and not account() and all(source in ("KAGGLE_KEY", str(client_folder() / "kaggle.json")) for source in credentials()):
        return f"{there} holds a key and no user name: set KAGGLE_USERNAME, too (in kaggle.json `username`)."
    if there:
        return f"Kaggle does not take what {there} holds. {REMEDIES[401]}"
    if empty := ", ".join(str(file) for file in token_files() if file.exists()):
        return f"{empty} holds no token that can be read. Make one on kaggle.com/settings and save it as ~/.kaggle/access_token."
    return (
        "There are no Kaggle credentials here. Make a token on kaggle.com/settings and save it as ~/.kaggle/access_token "
        "(or set KAGGLE_API_TOKEN)."
    )
