"""A key is planted, Kaggle's answers and logs are made to repeat it, and it is looked for in all that the commands say, start and leave."""

import json
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from server import KEY, Server, loopback

from kit import doctor
from kit.errors import KitError
from kit.remote.client import connect
from kit.remote.credentials import account, credentials, hide, refuse_credentials
from kit.remote.quota import gpu_time

METADATA = Path(__file__).parents[2] / "kernels" / "smoke" / "kernel-metadata.json"


@pytest.fixture
def server(monkeypatch, tmp_path):
    yield from loopback(monkeypatch, Server(tmp_path / "kaggle"))


@pytest.fixture
def clone(tmp_path):
    kernel = tmp_path / "clone" / "kernels" / "smoke"
    kernel.mkdir(parents=True)
    (kernel / "kernel-metadata.json").write_bytes(METADATA.read_bytes())
    (kernel / "main.py").write_text("open('submission.csv', 'w').write('Id,Category\\n')\nprint('the session runs')\n")
    return tmp_path / "clone"


@pytest.fixture
def seen():
    """The arguments of every process that this machine has run meanwhile and that name the key."""
    found, over = set(), threading.Event()

    def watch():
        while not over.wait(0.05):
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = entry.read_bytes()
                except OSError:
                    continue
                if KEY.encode() in words:
                    found.add(words)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield found
    over.set()
    thread.join()


@pytest.mark.slow
def test_a_planted_key_is_nowhere_in_what_is_said_started_or_left(server, clone, seen):
    def kit(*words):
        done = subprocess.run([sys.executable, "-m", "kit", *words], cwd=clone, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    said = [kit("doctor"), kit("bundle", "smoke"), kit("push", "smoke", "--dry-run"), kit("chain", "smoke", "--max-sessions", "1")]
    server.kernels["someone/kit-smoke"].log = f"a session that prints {KEY}\n"
    server.kernels["someone/kit-smoke"].failure = f"exit code 1, {KEY}"
    server.root = None
    server.faults["SaveKernel"].extend([f"no push with {KEY}"])
    said += [
        kit("push", "smoke"),
        kit("push", "smoke", "--wait"),
        kit("pull", "smoke"),
        kit("submit", str(clone)),
        kit("ledger", "--no-fetch"),
    ]
    assert [words for words in said if KEY in words] == []
    assert "no push with <KAGGLE_KEY>" in said[4]
    assert "a session that prints <KAGGLE_KEY>" in said[5]
    assert [file for file in clone.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()] == []
    assert seen == set()


def test_secrets_are_known_from_every_place_that_the_client_reads(tmp_path, monkeypatch):
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert credentials() == {}
    (tmp_path / "kaggle.json").write_text('{"username": "someone", "key": "the-key-of-json"}')
    (tmp_path / "token").write_text("the-token-of-a-file\n")
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(tmp_path / "token"))
    assert hide("the-key-of-json, the-token-of-a-file") == "<kaggle.json>, <token>"
    assert account() == "someone"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "the-token-itself")
    assert hide("the-token-itself") == "<KAGGLE_API_TOKEN>"
    assert "the-token-itself" not in str(list(credentials()))
    assert os.environ["KAGGLE_API_TOKEN"] == "the-token-itself"


def test_without_a_folder_of_its_own_the_clients_key_lies_among_the_users_settings(tmp_path, monkeypatch, server):
    for name in ("KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for settings in (None, tmp_path / "settings"):
        if settings:
            monkeypatch.setenv("XDG_CONFIG_HOME", str(settings))
        file = (settings or tmp_path / ".config") / "kaggle" / "kaggle.json"
        file.parent.mkdir(parents=True)
        file.write_text(f'{{"username": "{file.parents[1].name}", "key": "the-key-{file.parents[1].name}"}}')
        assert (account(), hide(f"the-key-{account()}")) == (file.parents[1].name, "<kaggle.json>")


@pytest.mark.parametrize(("text", "coding"), [("KGAT_0123456789", "utf-8-sig"), ("KGAT_0123456789", "utf-16"), ("KGAT_01…", "utf-8")])
def test_a_token_that_an_editor_has_damaged_is_named_and_not_to_be_tried_again_later(tmp_path, monkeypatch, server, text, coding):
    for name in ("KAGGLE_KEY", "KAGGLE_USERNAME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "access_token").write_text(text, encoding=coding)
    with pytest.raises(KitError, match=rf"{tmp_path}/\.kaggle/access_token holds"):
        connect()


def log_in(tmp_path, monkeypatch, **tokens):
    """As `kaggle auth login` leaves it."""
    for name in ("KAGGLE_KEY", "KAGGLE_USERNAME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kaggle").mkdir()
    file, later = tmp_path / ".kaggle" / "credentials.json", (datetime.now(UTC) + timedelta(hours=9)).isoformat()
    file.write_text(json.dumps(tokens | {"username": "someone", "access_token_expiration": later, "scopes": ["resources.admin:*"]}))
    return file


def test_a_login_whose_twelve_hours_are_over_is_renewed(tmp_path, monkeypatch, server):
    """A chain runs for days."""
    file = log_in(tmp_path, monkeypatch, access_token="the-access-token", refresh_token="the-refresh-token")
    kaggle = connect()
    kaggle.api.args = ["--local"]
    server.faults["GetAcceleratorQuotaStatistics"].append(401)
    assert gpu_time(kaggle) == (1, 30)
    assert server.calls == ["GetAcceleratorQuotaStatistics", "GenerateAccessToken", "GetAcceleratorQuotaStatistics"]
    assert (kaggle.api.config_values["token"], hide("the-next-token")) == ("the-next-token", "<credentials.json>")
    server.faults["GetAcceleratorQuotaStatistics"].extend([401] * 2)
    with pytest.raises(KitError, match="The token is wrong or has expired"):
        gpu_time(kaggle)
    file.unlink()
    server.faults["GetAcceleratorQuotaStatistics"].append(401)
    with pytest.raises(KitError, match="The token is wrong or has expired"):
        gpu_time(kaggle)


def test_what_the_clients_own_login_left_is_known_too(tmp_path, monkeypatch, server):
    tokens = {"access_token": "the-access-token", "refresh_token": "the-refresh-token"}
    file = log_in(tmp_path, monkeypatch, **tokens)
    assert connect().user == account() == "someone"
    assert doctor.credentials() == ("ok", str(file), "")
    assert hide("the-access-token, the-refresh-token") == "<credentials.json>, <credentials.json>"
    for secret in tokens.values():
        with pytest.raises(KitError, match=rf"main\.py holds the value of {file}"):
            refuse_credentials({"main.py": f"token = {secret!r}".encode()})


def test_without_an_answer_the_doctor_says_so_and_goes_on(monkeypatch, tmp_path):
    """No server at all: the proxy's port is closed."""
    clean = os.environ | {"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": KEY, "KAGGLE_CONFIG_DIR": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-m", "kit", "doctor"], env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "No answer from Kaggle" in done.stdout
    assert KEY not in done.stdout + done.stderr
