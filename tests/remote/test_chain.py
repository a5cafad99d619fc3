"""A run over several sessions on a Kaggle on loopback, which runs what is pushed and loses what Kaggle loses."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server import USER, Server, loopback

from kit.compress.pack import unpack
from kit.errors import KitError
from kit.files import sha256_of
from kit.remote.chain import Story, chain, read_story
from kit.remote.client import connect
from kit.remote.output import fetch, list_output

KERNELS = Path(__file__).parents[2] / "kernels"
REF = f"{USER}/kit-small"
HEAD = """
import os, tempfile
from pathlib import Path
from kit.config.recipes import recipe
from kit.config.schema import override
from kit.data.draw import draw_dataset
from kit.remote.kernel import session

if __name__ == "__main__":
    photos = draw_dataset(Path(tempfile.mkdtemp()) / "photos", splits={"training": 120, "validation": 60, "evaluation": 24})
    config = override(recipe("sample").tiny(), ["teacher.train.epochs=1", "train.epochs=400", "train.save_seconds=1"])
    session(config, data=photos, budget="20s")
"""
QUICK = """
import json
json.dump({"state": "done", "sessions": [{"steps": 7}]}, open("run.json", "w"))
"""


@pytest.fixture
def server(monkeypatch, tmp_path):
    yield from loopback(monkeypatch, Server(tmp_path / "kaggle"))


@pytest.fixture
def kaggle(server):
    client = connect()
    client.api.args = ["--local"]
    return type(client)(client.api, lambda seconds: time.sleep(0.2))


def kernel(tmp_path, head=QUICK):
    folder = tmp_path / "kernels" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(head)
    metadata = json.loads((KERNELS / "smoke" / "kernel-metadata.json").read_text())
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata | {"id": "YOUR-USERNAME/kit-small", "title": "kit small"}))
    return folder


@pytest.mark.skipif("KIT_LONG_CHAIN" not in os.environ, reason="sessions that train take minutes: make chain runs them")
def test_a_chain_of_sessions_ends_with_the_bytes_of_one_long_run(tmp_path, server, kaggle):
    """One session is killed by the time limit and its output lost, one is given an older output than it was promised."""
    long = Server(tmp_path / "long")
    said, folder = [], tmp_path / "chain"
    server.limits[2] = (15, False)
    server.stale.add(4)
    story = chain(kernel(tmp_path, HEAD), kaggle, said.append, folder=folder)
    assert story.state == "done"
    assert len(story.steps) >= 4
    assert any("was to be found there" in line for line in said)
    (pulled,) = fetch(kaggle, REF, tmp_path / "pulled", "student.kit")
    body = {"text": server.kernels[REF].requests[0]["text"].replace('budget="20s"', 'budget="9h"')}
    alone = type(server.kernels[REF])()
    long.run(alone, body, 1)
    long.close()
    assert sha256_of(pulled) == sha256_of(alone.outputs[0] / "student.kit")
    assert unpack(pulled).classes


def test_a_chain_that_was_killed_goes_on_with_the_session_that_runs(tmp_path, server, kaggle):
    folder, small = tmp_path / "chain", kernel(tmp_path)

    class Killed(BaseException):
        pass

    def say(line):
        if "RUNNING" in line:
            raise Killed

    with pytest.raises(Killed):
        chain(small, kaggle, say, folder=folder)
    assert chain(small, kaggle, print, folder=folder).state == "done"
    assert len(server.kernels[REF].requests) == 1
    assert chain(small, kaggle, print, folder=folder).state == "done"  # and a chain that is over does nothing
    assert len(server.kernels[REF].requests) == 1


def test_a_chain_that_was_killed_while_it_pushed_finds_its_push(tmp_path, server, kaggle):
    """Between Kaggle's answer and the chain's own note of it."""
    folder, small = tmp_path / "chain", kernel(tmp_path)
    chain(small, kaggle, print, folder=folder)
    story = read_story(folder / "chain.json", REF)
    assert story.before is None
    (folder / "chain.json").write_text(json.dumps({"ref": REF, "running": None, "before": 0, "steps": [], "state": "running"}))
    assert chain(small, kaggle, print, folder=folder).state == "done"
    assert len(server.kernels[REF].requests) == 1


def test_sessions_that_bring_nothing_stop_the_chain_with_the_end_of_the_log(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    (small / "main.py").write_text("print('nothing to see')\n")
    with pytest.raises(KitError, match=r"2 sessions in a row have not moved (.|\n)*nothing to see"):
        chain(small, kaggle, print, folder=tmp_path / "chain")
    assert len(server.kernels[REF].requests) == 2


def test_a_session_that_fails_stops_the_chain_and_the_next_start_pushes_again(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    good = (small / "main.py").read_text()
    (small / "main.py").write_text("raise SystemExit('error: no photos')\n")
    with pytest.raises(KitError, match=r"version 1 ended as ERROR.*\n?.*error: no photos"):
        chain(small, kaggle, print, folder=tmp_path / "chain")
    (small / "main.py").write_text(good)
    assert chain(small, kaggle, print, folder=tmp_path / "chain").state == "done"


def test_used_up_gpu_time_stops_the_chain_before_it_pushes(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    metadata = json.loads((small / "kernel-metadata.json").read_text())
    (small / "kernel-metadata.json").write_text(json.dumps(metadata | {"enable_gpu": True}))
    server.used = 108_000
    with pytest.raises(KitError, match="30 GPU hours are used up"):
        chain(small, kaggle, print, folder=tmp_path / "chain")
    assert REF not in server.kernels


def test_a_story_that_can_not_be_read_is_named(tmp_path):
    (tmp_path / "chain.json").write_text("{")
    with pytest.raises(KitError, match="Remove it to begin a new chain"):
        read_story(tmp_path / "chain.json", REF)
    assert Story(REF, steps=[5, 5, 5]).still == 2


def test_output_is_fetched_whole_or_not_at_all(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    (small / "main.py").write_text("from pathlib import Path\nfor i in range(5):\n    Path(f'{i}.txt').write_text(str(i) * 100)\n")
    chain(small, kaggle, print, folder=tmp_path / "chain", max_sessions=1)
    assert [file.name for file in list_output(kaggle, REF)[0]] == [f"{i}.txt" for i in range(5)]
    server.faults["download"].extend([503, 500])
    (pulled,) = fetch(kaggle, REF, tmp_path / "pulled", "3.txt")
    assert pulled.read_text() == "3" * 100
    server.faults["download"].extend([503] * 9)
    with pytest.raises(KitError, match=r"3\.txt could not be fetched \(503"):
        list(fetch(kaggle, REF, tmp_path / "again", "3.txt"))
    assert list((tmp_path / "again").iterdir()) == []
    with pytest.raises(KitError, match="no file that fits 'csv'"):
        list(fetch(kaggle, REF, tmp_path / "again", "csv"))


def test_the_command_runs_a_chain_and_pulls_what_it_left(tmp_path, server):
    kernel(tmp_path)
    (tmp_path / "kernels" / "small" / "main.py").write_text("open('submission.csv', 'w').write('Id,Category\\n')\n")
    words = [sys.executable, "-m", "kit"]
    done = subprocess.run([*words, "chain", "small", "--max-sessions", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "after 1 sessions, step 0" in done.stdout, done.stderr
    subprocess.run([*words, "pull", "small"], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "runs" / "small-kaggle" / "submission.csv").read_text() == "Id,Category\n"
