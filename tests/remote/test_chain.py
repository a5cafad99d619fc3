"""A run over several sessions on a Kaggle on loopback, which runs what is pushed and loses what Kaggle loses."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from server import CUT, DROP_AFTER, USER, ZIPPED, ZIPPED_CUT, Server, loopback

from kit.cli.kaggle import furthest
from kit.compress.pack import unpack
from kit.errors import KitError
from kit.files import sha256_of
from kit.remote.chain import LIMIT_WORDS, chain
from kit.remote.client import connect
from kit.remote.output import fetch, list_output, read_log, steps_told
from kit.remote.pull import pull
from kit.remote.push import Pushed, push, wait_for
from kit.remote.story import Reached, Story, read_story, save

KERNELS = Path(__file__).parents[2] / "kernels"
REF = f"{USER}/kit-small"
HEAD = """
import os, tempfile
from pathlib import Path
from kit.config.recipes import recipe
from kit.config.override import override
from kit.data.draw import draw_dataset
from kit.remote.kernel import session

if __name__ == "__main__":
    photos = draw_dataset(Path(tempfile.mkdtemp()) / "photos", splits={"training": 120, "validation": 60, "evaluation": 24})
    config = override(recipe("sample").tiny(), ["teacher.train.epochs=1", "train.epochs=1000", "train.save_seconds=1"])
    session(config, data=photos, budget="20s")
"""
QUICK = """
import json
json.dump({"state": "done", "sessions": [{"steps": 7}]}, open("run.json", "w"))
"""
# Goes on with the furthest number that is attached, in whichever mount, three steps a session, nine in all.
COUNTS = """
import json, os, sys
from pathlib import Path

found = [json.loads(file.read_text())["sessions"][-1]["steps"] for file in (Path(os.environ["KIT_KAGGLE"]) / "input").rglob("run.json")]
step, least = max(found, default=0), int(os.environ.get("KIT_LEAST_STEP", "0"))
if step < least:
    sys.exit(f"error: step {least} was to be found there, {step} is")
json.dump({"state": "done" if step + 3 == 9 else "suspended", "sessions": [{"steps": step + 3}]}, open("run.json", "w"))
"""
# Goes on with the furthest checkpoint that is attached, a hundred steps a session, 300 in all. Those in ENDLESS don't end by themselves.
SAVES = """
import json, os, sys, time
from pathlib import Path

found = [int(file.name.split("-")[1]) for file in (Path(os.environ["KIT_KAGGLE"]) / "input").rglob("*.pt")]
step, least = max(found, default=0), int(os.environ.get("KIT_LEAST_STEP", "0"))
if step < least:
    sys.exit(f"error: step {least} was to be found there, {step} is")
Path("checkpoints").mkdir()
for saved in (step + 50, step + 100):
    Path(f"checkpoints/distil-{saved:09d}-e3b0c44298fc1c14.pt").touch()
json.dump({"state": "running", "sessions": [{}]}, open("run.json", "w"))
if step // 100 + 1 in ENDLESS:
    time.sleep(30)
json.dump({"state": "done" if step == 200 else "suspended", "sessions": [{"steps": step + 100}]}, open("run.json", "w"))
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
@pytest.mark.parametrize("via", ["self", "dataset"])
def test_a_chain_of_ten_sessions_ends_with_the_bytes_of_one_long_run(tmp_path, server, kaggle, via, paced):
    """Three sessions are killed by the time limit, two of them losing their output, one is given an older output than it was promised,
    and one push is answered too late, after it was taken."""
    long, budget, limit = Server(tmp_path / "long"), f"{paced(20)}s", paced(15)
    said, folder = [], tmp_path / "chain"
    server.limits = {2: (limit, False), 4: (limit, True), 7: (limit, False)}
    server.stale.add(9)
    server.faults["SaveKernel"].extend([None, None, DROP_AFTER])
    story = chain(kernel(tmp_path, HEAD.replace("20s", budget)), replace(kaggle, say=said.append), folder=folder, via=via)
    assert story.state == "done"
    assert len(story.steps) >= 10
    assert any("was to be found there" in line for line in said) or via == "dataset"  # whose newest version is the only one
    assert any("asking whether the push arrived" in line for line in said)
    pulled = folder / "output" / "student.kit"
    body = {"text": server.kernels[REF].requests[0]["text"].replace(f'budget="{budget}"', 'budget="9h"')}
    alone = type(server.kernels[REF])()
    long.run(alone, body, 1, 1)
    long.close()
    assert sha256_of(pulled) == sha256_of(alone.outputs[1] / "student.kit")
    assert unpack(pulled).classes


@pytest.mark.parametrize("via", ["self", "pair", "dataset"])
def test_the_state_travels_each_way(tmp_path, server, kaggle, via):
    story = chain(kernel(tmp_path, COUNTS), kaggle, folder=tmp_path / "chain", via=via)
    assert (story.state, story.steps) == ("done", [3, 6, 9])
    assert {ref: len(it.requests) for ref, it in server.kernels.items()} == ({REF: 2, f"{REF}-b": 1} if via == "pair" else {REF: 3})
    assert list(server.datasets) == ([f"{REF}-state"] if via == "dataset" else [])
    assert json.loads((tmp_path / "chain" / "output" / "run.json").read_text())["state"] == "done"


def test_where_kaggle_drops_the_source_the_next_way_is_taken(tmp_path, server, kaggle):
    """First the kernel itself, then its partner's: both are dropped, and the sessions that run without stop at once."""
    server.missing.add(REF)
    said = []
    story = chain(kernel(tmp_path, COUNTS), replace(kaggle, say=said.append), folder=tmp_path / "chain")
    assert (story.state, story.via, story.steps) == ("done", "dataset", [3, 6, 9])
    assert [line for line in said if "the state will travel" in line] == [
        f"Kaggle dropped {REF}: the state will travel by --via pair",
        f"Kaggle dropped {REF}: the state will travel by --via dataset",
    ]
    assert len(server.kernels[f"{REF}-b"].requests) == 1


def test_a_dropped_competition_is_no_matter_of_the_state_and_its_session_is_not_gone_on_with(tmp_path, server, kaggle):
    small = kernel(tmp_path, COUNTS)
    metadata = json.loads((small / "kernel-metadata.json").read_text())
    (small / "kernel-metadata.json").write_text(json.dumps(metadata | {"competition_sources": ["nowhere"]}))
    server.missing.add("nowhere")
    with pytest.raises(KitError, match="dropped competition nowhere"):
        chain(small, kaggle, folder=tmp_path / "chain")
    server.missing.clear()  # its rules are accepted now
    assert chain(small, kaggle, folder=tmp_path / "chain").state == "done"
    assert len(server.kernels[REF].requests) == 4


def test_after_a_session_that_brought_nothing_the_furthest_is_named_by_its_version(tmp_path, server, kaggle):
    small, folder = kernel(tmp_path, COUNTS), tmp_path / "chain"
    chain(small, kaggle, folder=folder, max_sessions=1)
    server.stale.add(2)  # nothing is older than the first output, so this session is given nothing at all
    server.kernels[REF].outputs[0] = tmp_path / "empty"
    (tmp_path / "empty").mkdir()
    story = chain(small, kaggle, folder=folder)
    assert story.steps == [3, 0, 6, 9]
    assert [request.get("kernelDataSources") for request in server.kernels[REF].requests] == [None, [REF], [f"{REF}/1"], [REF]]


@pytest.mark.parametrize("killed", [(1, 2), (2,)])
def test_what_a_session_saved_before_the_time_limit_killed_it_is_gone_on_with(tmp_path, server, kaggle, killed):
    """Its run.json tells no steps, its checkpoints do; and it is named by its version, Kaggle's newest good one being another."""
    server.limits, server.cancelled = dict.fromkeys(killed, (4, True)), {2}  # as Kaggle may call it
    story = chain(kernel(tmp_path, SAVES.replace("ENDLESS", repr(killed))), kaggle, folder=tmp_path / "chain")
    assert (story.state, story.steps) == ("done", [100, 200, 300])
    asked = [request.get("kernelDataSources") for request in server.kernels[REF].requests]
    assert asked == [None, [f"{REF}/1" if 1 in killed else REF], [f"{REF}/2"]]
    kept = (tmp_path / "chain" / "output" / "checkpoints").iterdir()  # of the last session alone
    assert sorted(file.name for file in kept) == [f"distil-000000{step}-e3b0c44298fc1c14.pt" for step in (250, 300)]


def test_a_run_that_ends_with_fewer_steps_than_it_once_had_is_fetched_whole(tmp_path, server, kaggle):
    """One that diverged went back, and its patience was over before it had come as far again."""
    turns = "import json, os\nback = os.environ.get('KIT_LEAST_STEP', '0') != '0'\n"
    turns += "json.dump({'state': 'done' if back else 'suspended', 'sessions': [{'steps': 90 if back else 100}]}, open('run.json', 'w'))\n"
    story = chain(kernel(tmp_path, turns), kaggle, folder=tmp_path / "chain")
    assert (story.state, story.steps, story.furthest.version) == ("done", [100, 90], 2)
    assert json.loads((tmp_path / "chain" / "output" / "run.json").read_text())["state"] == "done"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("distil-000000007-0123456789abcdef.pt", "has the sha256 .* its run wrote 0123456789abcdef"),
        ("provenance.json", "is not as a run writes it: it is no JSON object"),
    ],
)
def test_a_page_that_says_that_kaggle_is_busy_is_taken_for_no_file(tmp_path, server, kaggle, file, says):
    small = kernel(tmp_path, QUICK + f"open({file!r}, 'w').write('<html>503')\nopen('submission.csv', 'w')\n")
    with pytest.raises(KitError, match=says):
        chain(small, kaggle, folder=tmp_path / "chain")
    assert not (tmp_path / "chain" / "output" / file).exists()


@pytest.mark.parametrize("fault", [503, 429, 500])
def test_a_data_set_that_is_hard_to_write_is_written_again(tmp_path, server, kaggle, fault):
    server.faults["upload"].append(fault)
    for method in ("CreateDataset", "CreateDatasetVersion", "StartBlobUpload", "GetDatasetStatus"):
        server.faults[method].append(fault)
    assert chain(kernel(tmp_path, COUNTS), kaggle, folder=tmp_path / "chain", via="dataset").state == "done"


def test_a_chain_that_was_killed_goes_on_with_the_session_that_runs(tmp_path, server, kaggle):
    folder, small = tmp_path / "chain", kernel(tmp_path)

    class Killed(BaseException):
        pass

    def say(line):
        if "https://" in line:  # it is pushed and written down
            raise Killed

    with pytest.raises(Killed):
        chain(small, replace(kaggle, say=say), folder=folder)
    assert chain(small, kaggle, folder=folder).state == "done"
    assert len(server.kernels[REF].requests) == 1
    assert chain(small, kaggle, folder=folder).state == "done"  # and a chain that is over does nothing
    assert len(server.kernels[REF].requests) == 1


def test_a_chain_that_was_killed_while_it_pushed_finds_its_push(tmp_path, server, kaggle):
    """Between Kaggle's answer and the chain's own note of it."""
    folder, small = tmp_path / "chain", kernel(tmp_path)
    chain(small, kaggle, folder=folder)
    story = read_story(folder / "chain.json", REF)
    assert story.before is None
    (folder / "chain.json").write_text(json.dumps({"ref": REF, "before": 0, "before_of": REF}))
    assert chain(small, kaggle, folder=folder).state == "done"
    assert len(server.kernels[REF].requests) == 1


@pytest.mark.parametrize("again", [{}, {"timeout": 3600}], ids=["a limit less", "another limit"])
def test_a_chain_that_was_killed_while_it_pushed_finds_its_push_whatever_it_would_push_now(again, tmp_path, server, kaggle):
    class Killed(BaseException):
        pass

    def say(line):
        if "asking whether the push arrived" in line:
            raise Killed

    folder, small = tmp_path / "chain", kernel(tmp_path, QUICK)
    server.faults["SaveKernel"].append(DROP_AFTER)
    with pytest.raises(Killed):
        chain(small, replace(kaggle, say=say), folder=folder, timeout=7200)
    (small / "main.py").write_text(QUICK + "# mended meanwhile\n")
    assert chain(small, kaggle, folder=folder, **again).state == "done"
    assert len(server.kernels[REF].requests) == 1


def test_a_session_is_held_against_the_limit_that_it_was_pushed_with(tmp_path, server, kaggle):
    class Killed(BaseException):
        pass

    def say(line):
        if "https://" in line:
            raise Killed

    folder, small = tmp_path / "chain", kernel(tmp_path, "import time\ntime.sleep(3)\nraise SystemExit(1)\n")
    with pytest.raises(Killed):
        chain(small, replace(kaggle, say=say), folder=folder, timeout=1)
    assert chain(small, kaggle, folder=folder, max_sessions=1).steps == [0]


def test_sessions_that_bring_nothing_stop_the_chain_with_the_end_of_the_log(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    (small / "main.py").write_text("print('nothing to see')\n")
    with pytest.raises(KitError, match=r"2 sessions in a row have not moved .*--via dataset(.|\n)*nothing to see"):
        chain(small, kaggle, folder=tmp_path / "chain")
    assert len(server.kernels[REF].requests) == 2


def test_a_session_that_fails_stops_the_chain_and_the_next_start_pushes_again(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    good = (small / "main.py").read_text()
    (small / "main.py").write_text("raise SystemExit('error: no photos')\n")
    with pytest.raises(KitError, match=r"version 1 ended as ERROR.*\n?.*error: no photos"):
        chain(small, kaggle, folder=tmp_path / "chain")
    (small / "main.py").write_text(good)
    assert chain(small, kaggle, folder=tmp_path / "chain").state == "done"


@pytest.mark.parametrize("code", [403, 404])
def test_a_failed_session_whose_output_kaggle_does_not_show_is_told_and_not_asked_for_again(tmp_path, server, kaggle, code):
    small = kernel(tmp_path, "raise SystemExit('error: no photos')\n")
    server.faults["ListKernelSessionOutput"].extend([code] * 999)
    with pytest.raises(KitError, match=r"version 1 ended as ERROR\. exit code 1"):
        chain(small, kaggle, folder=tmp_path / "chain")
    server.faults.clear()
    kernel(tmp_path)
    assert chain(small, kaggle, folder=tmp_path / "chain").state == "done"


@pytest.mark.parametrize(("run", "steps"), [(True, [3, 6, 0, 9]), (False, [3, 6, 9])], ids=["run", "quick save"])
def test_a_version_that_someone_else_pushed_is_not_taken_for_the_chains_own(run, steps, tmp_path, server, kaggle):
    """Without a version Kaggle mounts the newest output, which may be the other's: the next session names it."""
    small, folder = kernel(tmp_path, COUNTS), tmp_path / "chain"

    def say(line):
        if "version 2: https://" in line:
            server.root, root = server.root if run else None, server.root
            push(small, kaggle)
            server.root = root
            server.kernels[REF].states = server.kernels[REF].states if run else type(server.kernels[REF].states)(["NEW_SCRIPT"])

    assert chain(small, replace(kaggle, say=say), folder=folder).steps == steps
    assert server.kernels[REF].requests[-1]["kernelDataSources"] == [f"{REF}/2" if run else REF]


def test_where_kaggle_tells_of_the_newest_session_alone_a_foreign_one_stops_the_chain(tmp_path, server, kaggle):
    small, folder, server.knows_versions = kernel(tmp_path, COUNTS), tmp_path / "chain", False

    def say(line):
        if "version 2: https://" in line:
            push(small, kaggle)

    with pytest.raises(KitError, match=r"there is a version 3, which this chain did not push(.|\n)*goes on from step 3"):
        chain(small, replace(kaggle, say=say), folder=folder)
    assert chain(small, kaggle, folder=folder).steps == [3, 0, 6, 9]
    assert server.kernels[REF].requests[3]["kernelDataSources"] == [f"{REF}/1"]


def test_a_version_that_was_saved_and_never_run_is_no_chains_first_session(tmp_path, server, kaggle):
    small, root, server.root = kernel(tmp_path, COUNTS), server.root, None
    push(small, kaggle)
    server.kernels[REF].states[0], server.root = "NEW_SCRIPT", root
    assert chain(small, kaggle, folder=tmp_path / "chain").steps == [3, 6, 9]


@pytest.mark.parametrize(("anew", "sources"), [(False, [REF]), (True, None)])
def test_an_unfinished_run_that_was_pushed_before_the_chain_is_its_first_session(tmp_path, server, kaggle, anew, sources):
    push(small := kernel(tmp_path, COUNTS), kaggle)
    story = chain(small, kaggle, folder=tmp_path / "chain", anew=anew)
    assert (story.state, story.steps) == ("done", [3, 6, 9])
    assert server.kernels[REF].requests[1].get("kernelDataSources") == sources
    with pytest.raises(KitError, match=r"chain\.json tells of a chain that has begun\. Leave out --anew"):
        chain(small, kaggle, folder=tmp_path / "chain", anew=True)


@pytest.mark.parametrize("before", [QUICK, "raise SystemExit('error: no photos')\n"])
def test_a_run_that_was_done_or_failed_before_the_chain_is_none_of_its_sessions(tmp_path, server, kaggle, before):
    wait_for(push(kernel(tmp_path, before), kaggle), kaggle)
    assert chain(kernel(tmp_path, COUNTS), kaggle, folder=tmp_path / "chain").steps == [3, 6, 9]
    assert len(server.kernels[REF].requests) == 4


def test_a_kernel_that_was_never_pushed_has_nothing_to_pull(tmp_path, server, kaggle):
    with pytest.raises(KitError, match=rf"There is no kernel {REF} on Kaggle .*kit push small"):
        pull(kaggle, REF, "small", tmp_path / "submissions")


def test_a_session_whose_kernel_was_deleted_is_not_asked_for_for_ever(tmp_path, server, kaggle):
    """Kaggle drops the source that is gone with it; the copy at home travels."""
    small, folder = kernel(tmp_path, COUNTS), tmp_path / "chain"

    def say(line):
        if "version 2: https://" in line:
            server.missing |= {REF, f"{REF}/1"}
            del server.kernels[REF]

    with pytest.raises(KitError, match=rf"{REF} version 2 is not on Kaggle any more(.|\n)*goes on from step 3"):
        chain(small, replace(kaggle, say=say), folder=folder)
    assert chain(small, kaggle, folder=folder).steps == [3, 0, 6, 9]


@pytest.mark.parametrize(("head", "source"), [(COUNTS, [f"{REF}/1"]), ("", None)])
def test_a_session_that_was_cancelled_is_not_followed_by_another_unasked(tmp_path, server, kaggle, head, source):
    small, folder = kernel(tmp_path, head), tmp_path / "chain"
    server.cancelled.add(1)
    with pytest.raises(KitError, match=r"version 1 was cancelled on Kaggle\. Start the chain again"):
        chain(small, kaggle, folder=folder)
    assert len(server.kernels[REF].requests) == 1
    kernel(tmp_path, COUNTS)
    assert chain(small, kaggle, folder=folder).state == "done"
    assert server.kernels[REF].requests[1].get("kernelDataSources") == source


def test_the_number_of_one_kernels_versions_is_not_taken_for_anothers(tmp_path, server, kaggle):
    """A push that was refused leaves it; the chain is started again with the other of a pair."""
    small, folder = kernel(tmp_path, COUNTS), tmp_path / "chain"
    chain(small, kaggle, folder=folder, max_sessions=1)
    server.faults["SaveKernel"].append(403)
    with pytest.raises(KitError, match="403"):
        chain(small, kaggle, folder=folder)
    for _ in range(2):  # another's, whose text is equal
        push(small, kaggle, least_step=3, changes={"id": f"{REF}-b", "title": "kit small b"})
    assert chain(small, kaggle, folder=folder, via="pair").state == "done"
    assert len(server.kernels[f"{REF}-b"].requests) == 3


def test_a_chain_that_has_nothing_to_do_says_why_and_what_to_do(tmp_path, server, kaggle):
    small, folder, said = kernel(tmp_path, COUNTS), tmp_path / "chain", []
    for limit in ({"max_sessions": 1}, {"max_sessions": 1}, {"until": 3}, {}, {}):
        chain(small, replace(kaggle, say=said.append), folder=folder, **limit)
    assert [line for line in said if "Raise it" in line or "remove that file" in line] == [
        "--max-sessions 1 is reached (1 session, earlier starts included). Raise it to go on.",
        "The run is at step 3, --until 3. Raise it to go on.",
        f"{folder / 'chain.json'} tells of a run that is done. For another one, such as a changed head's, remove that file or choose "
        "another --out.",
    ]
    assert len(server.kernels[REF].requests) == 3


@pytest.mark.parametrize("words", ["RecursionError: maximum recursion depth exceeded", "Read timed out"])
def test_what_a_failed_session_says_of_limits_is_no_time_limit(tmp_path, server, kaggle, words):
    with pytest.raises(KitError, match=f"version 1 ended as ERROR(.|\n)*{words}"):
        chain(kernel(tmp_path, f"raise SystemExit({words!r})\n"), kaggle, folder=tmp_path / "chain")


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("Your notebook exceeded the time limit", True),
        ("Exceeded the max allowed execution duration", True),
        ("Your notebook tried to allocate more memory than is available: memory limit exceeded", False),
        ("Disk quota exceeded", False),
    ],
)
def test_kaggle_tells_its_time_limit_from_others(reason, limit):
    assert bool(LIMIT_WORDS.search(reason)) == limit


def test_a_chain_that_looks_late_excuses_no_session_that_failed_at_once(tmp_path, server, kaggle):
    small, asleep = kernel(tmp_path, "raise SystemExit('no photos')\n"), lambda line: time.sleep(1.5 if "https://" in line else 0)
    with pytest.raises(KitError, match=r"version 1 ended as ERROR"):
        chain(small, replace(kaggle, say=asleep), folder=tmp_path / "chain", timeout=1)


@pytest.mark.parametrize("head", ["import time\ntime.sleep(2)", """print('[{"time": 0.99, "data": "epoch 300"}]')"""], ids=["looks", "log"])
def test_a_session_that_ran_until_its_limit_is_followed_by_another(tmp_path, server, kaggle, head):
    with pytest.raises(KitError, match="2 sessions in a row"):
        chain(kernel(tmp_path, f"{head}\nraise SystemExit(1)\n"), kaggle, folder=tmp_path / "chain", timeout=1)


def test_a_session_is_told_of_the_limit_that_it_must_end_before(tmp_path, server, kaggle):
    small = kernel(tmp_path, QUICK + "from kit.remote.kernel import session_seconds\nprint(session_seconds('8h30m'))\n")
    chain(small, kaggle, folder=tmp_path / "chain", timeout=14_400)
    assert server.kernels[REF].log == "12600.0\n"


def test_a_session_that_only_hands_in_is_kept_at_home(tmp_path, server, kaggle):
    """The one before it had ended its time with the last step."""
    folder, small = tmp_path / "chain", kernel(tmp_path, QUICK.replace("done", "suspended"))
    chain(small, kaggle, folder=folder, max_sessions=1)
    kernel(tmp_path, QUICK + "open('submission.csv', 'w')\n")
    assert chain(small, kaggle, folder=folder).steps == [7, 7]
    assert (folder / "output" / "submission.csv").is_file()


def test_a_run_that_tells_no_steps_is_lived_with(tmp_path, server, kaggle):
    story = chain(kernel(tmp_path, QUICK.replace("7", "None")), kaggle, folder=tmp_path / "chain")
    assert (story.state, story.steps) == ("done", [0])


def test_a_session_that_failed_after_it_brought_the_run_further_is_followed_by_another(tmp_path, server, kaggle):
    """Nothing in its log or in Kaggle's words says why: the limit may have ended it."""
    small = kernel(tmp_path, COUNTS)
    server.wordless = {2}
    assert chain(small, kaggle, folder=tmp_path / "chain").steps == [3, 6, 9]


def test_a_kaggle_that_does_not_tell_logs_or_gpu_time_is_lived_with(tmp_path, server, kaggle):
    small = kernel(tmp_path, COUNTS)
    metadata = json.loads((small / "kernel-metadata.json").read_text())
    (small / "kernel-metadata.json").write_text(json.dumps(metadata | {"enable_gpu": True}))
    server.faults["GetAcceleratorQuotaStatistics"].extend([404] * 9)
    server.faults["ListKernelSessionOutput"].extend([404])
    assert chain(small, kaggle, folder=tmp_path / "chain").state == "done"


@pytest.mark.parametrize("method", ["GetKernelSessionStatus", "GetKernel", "ListKernelSessionOutput", "SaveKernel", "download"])
def test_a_chain_outlasts_an_outage_and_says_so_once(tmp_path, server, kaggle, method):
    said = []
    server.faults[method].extend([503] * 9)
    assert chain(kernel(tmp_path), replace(kaggle, say=said.append), folder=tmp_path / "chain").state == "done"
    assert len(server.kernels[REF].requests) == 1
    words = "asking whether" if method == "SaveKernel" else "asking again every 5 minutes, for 12 h at most"
    assert sum(words in line for line in said) == 1


def test_a_file_that_is_refused_for_good_ends_a_chain_at_once(tmp_path, server, kaggle):
    server.faults["download"].append(403)
    with pytest.raises(KitError, match=r"could not be fetched \(403 .*\. Try again later\."):
        chain(kernel(tmp_path), kaggle, folder=tmp_path / "chain")
    assert chain(kernel(tmp_path), kaggle, folder=tmp_path / "chain").state == "done"
    assert len(server.kernels[REF].requests) == 1  # its session had ended well, and is looked at again


def test_used_up_gpu_time_stops_the_chain_before_it_pushes(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    metadata = json.loads((small / "kernel-metadata.json").read_text())
    (small / "kernel-metadata.json").write_text(json.dumps(metadata | {"enable_gpu": True}))
    server.used = 108_000
    with pytest.raises(KitError, match="30 GPU hours are used up"):
        chain(small, kaggle, folder=tmp_path / "chain")
    assert REF not in server.kernels


def test_a_story_that_can_not_be_read_is_named(tmp_path):
    (tmp_path / "chain.json").write_text("{")
    with pytest.raises(KitError, match="Mend it, or remove it to begin anew"):
        read_story(tmp_path / "chain.json", REF)
    assert Story(REF, steps=[5, 5, 5]).still == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"running": {}}, "running.ref: Field required"),
        ({"running": {"ref": "kit-small", "version": 1, "url": ""}}, "tells of .*kit-small.*, not of someone/kit-small"),
        ({"steps": None}, "steps: Input should be a valid list"),
        ({"steps": [3, -1]}, "steps.1: Input should be greater than or equal to 0"),
        ({"via": "post"}, "via: Input should be 'self', 'pair' or 'dataset'"),
        ({"furthest": {"ref": REF, "version": "two", "step": 3}}, "furthest.version: Input should be a valid integer"),
        ({"step": [3]}, "step: Unexpected keyword argument"),
        ({"state": 7}, "state: Input should be 'running' or 'done'"),
    ],
)
def test_a_story_that_was_damaged_by_hand_is_refused_with_what_is_wrong(tmp_path, fields, words):
    (tmp_path / "chain.json").write_text(json.dumps({"ref": REF} | fields))
    with pytest.raises(KitError, match=rf"chain.json .*{words}"):
        read_story(tmp_path / "chain.json", REF)


def test_a_chain_does_not_begin_among_other_peoples_files(tmp_path, server, kaggle):
    """Each session that goes further takes away what the one before it left."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.tex").touch()
    with pytest.raises(KitError, match=r"output holds files that no chain fetched.* or choose another --out"):
        chain(kernel(tmp_path), kaggle, folder=tmp_path)
    assert furthest(tmp_path / "chain.json", REF, kaggle) == REF  # who only looks takes nothing away
    saved = tmp_path / "output" / "checkpoints" / "distil-000000300-e3b0c44298fc1c14.pt"
    saved.parent.mkdir()
    saved.touch()  # its own, of a session that was killed and a story that was removed to begin anew
    assert chain(kernel(tmp_path), kaggle, folder=tmp_path).state == "done"


def test_a_story_that_is_written_is_read_again(tmp_path):
    story = Story(REF, "pair", Pushed(f"{REF}-b", 2, ""), 1, REF, [3], Reached(REF, 1, 3, "ERROR"), "end")
    save(story, tmp_path)
    assert read_story(tmp_path / "chain.json", REF) == story


def test_output_is_fetched_whole_or_not_at_all(tmp_path, server, kaggle):
    small = kernel(tmp_path)
    (small / "main.py").write_text("from pathlib import Path\nfor i in range(5):\n    Path(f'{i}.txt').write_text(str(i) * 100)\n")
    chain(small, kaggle, folder=tmp_path / "chain", max_sessions=1)
    assert list(list_output(kaggle, REF)[0]) == [f"{i}.txt" for i in range(5)]
    server.faults["download"].extend([503, 500])
    (pulled,) = fetch(kaggle, REF, tmp_path / "pulled", "3.txt")
    assert pulled.read_text() == "3" * 100
    server.faults["download"].extend([CUT, ZIPPED_CUT] + [ZIPPED] * 3)
    (pulled,) = fetch(kaggle, REF, tmp_path / "pulled", "4.txt")
    assert pulled.read_text() == "4" * 100
    assert list(server.faults["download"]) == [ZIPPED] * 2
    server.faults["download"].clear()
    server.faults["download"].extend([503] * 9)
    with pytest.raises(KitError, match=r"3\.txt could not be fetched \(503"):
        list(fetch(kaggle, REF, tmp_path / "again", "3.txt"))
    assert not (tmp_path / "again").exists()
    with pytest.raises(KitError, match="no file that fits 'csv'"):
        list(fetch(kaggle, REF, tmp_path / "again", "csv"))
    with pytest.raises(KitError, match=r"'\*\.csv' is no regular expression \(.*\)\. All CSVs are '\.\*\\.csv', all files"):
        list(fetch(kaggle, REF, tmp_path / "again", "*.csv"))


def test_a_file_that_would_be_written_outside_of_the_folder_is_not_fetched(tmp_path, server, kaggle):
    wait_for(push(kernel(tmp_path, "import os\nos.mkdir('left')\nopen('left/file.txt', 'w')\n"), kaggle), kaggle)
    for folder in ("elsewhere", "pulled"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pulled" / "left").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KitError, match=r"'left/file\.txt', which would be written outside of .*pulled"):
        list(fetch(kaggle, REF, tmp_path / "pulled"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_a_later_session_left_is_not_mixed_with_the_csv_of_an_earlier_one(tmp_path, server, kaggle):
    folder = tmp_path / "submissions"
    for number, wanted in enumerate(["submission.csv", "log.txt", "log.txt"]):
        kernel(tmp_path, f"open('submission.csv', 'w').write('{number}')\nopen('log.txt', 'w').write('{number}')\n")
        if number < 2:
            chain(tmp_path / "kernels" / "small", kaggle, folder=tmp_path / f"chain-{number}", max_sessions=1)
        pull(kaggle, REF, "small", folder, wanted)
    first, second = sorted(folder.glob("*-small*"))
    assert {file.name: file.read_text() for file in first.iterdir() if file.suffix != ".json"} == {"submission.csv": "0"}
    assert (second / "log.txt").read_text() == "1"
    assert [json.loads((place / "provenance.json").read_text())["kernel_version"] for place in (first, second)] == [1, 2]
    pull(kaggle, REF, "small", folder, "log.txt", out=first)  # a folder that was named is taken
    assert json.loads((first / "provenance.json").read_text())["kernel_version"] == 1
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(KitError, match=r"run holds a run that was not pulled, .*Choose another --out"):
        pull(kaggle, REF, "small", folder, ".*", out=tmp_path / "run")
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_a_csv_that_its_run_did_not_write_is_not_pulled(tmp_path, server, kaggle):
    head = "import json\njson.dump({'csv_sha256': '0' * 64}, open('provenance.json', 'w'))\nopen('submission.csv', 'w')\n"
    wait_for(push(kernel(tmp_path, head), kaggle), kaggle)
    with pytest.raises(KitError, match=r"submission\.csv of .* has the sha256 e3b0c44298fc1c14…, its run wrote 0000000000000000…"):
        pull(kaggle, REF, "small", tmp_path / "submissions")
    assert not list(tmp_path.glob("submissions/**/*.csv"))


def test_a_provenance_with_other_types_is_not_pulled(tmp_path, server, kaggle):
    small = kernel(tmp_path, """open('provenance.json', 'w').write('{"csv_sha256": 7}')\nopen('submission.csv', 'w')\n""")
    chain(small, kaggle, folder=tmp_path / "chain", max_sessions=1)
    with pytest.raises(KitError, match=rf"provenance\.json of {REF} is not as a run writes it: csv_sha256: .* \(got 7\)"):
        pull(kaggle, REF, "small", tmp_path / "submissions")


def test_the_provenance_alone_can_be_pulled(tmp_path, server, kaggle):
    small = kernel(tmp_path, "open('provenance.json', 'w').write('{\"recipe\": \"small\"}')\n")
    chain(small, kaggle, folder=tmp_path / "chain", max_sessions=1)
    (file,) = pull(kaggle, REF, "small", tmp_path / "submissions", r"provenance\.json")
    assert json.loads(file.read_text())["kernel"] == REF


@pytest.mark.slow
def test_of_a_pair_that_takes_turns_the_one_that_is_furthest_is_pulled(tmp_path, server, kaggle):
    small = kernel(tmp_path, COUNTS + "open('submission.csv', 'w').write(str(step + 3))\n")
    chain(small, kaggle, folder=tmp_path / "runs" / "chain-small", via="pair", until=6)
    done = subprocess.run([sys.executable, "-m", "kit", "pull", "small"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert f"the run is furthest in {REF}-b, whose output is pulled" in done.stdout.replace("\n", ""), done.stderr
    (place,) = (tmp_path / "submissions").glob("*-small")
    assert (place / "submission.csv").read_text() == "6"


def test_where_a_later_session_is_the_newest_the_furthest_ones_files_are_pulled(tmp_path, server, kaggle, capsys):
    small, file = kernel(tmp_path, QUICK + "open('submission.csv', 'w').write('of the chain')\n"), tmp_path / "chain" / "chain.json"
    chain(small, kaggle, folder=file.parent)
    assert (furthest(file, REF, kaggle), furthest(tmp_path / "none.json", REF, kaggle)) == (REF, REF)
    assert "furthest" not in capsys.readouterr().out
    wait_for(push(kernel(tmp_path, "open('submission.csv', 'w').write('of another')\n"), kaggle), kaggle)
    pull(kaggle, furthest(file, REF, kaggle), "small", tmp_path / "submissions")
    assert "furthest in version 1, whose output is pulled, not the newest's, 2" in capsys.readouterr().out.replace("\n", "")
    (place,) = (tmp_path / "submissions").glob("*-small")
    made = json.loads((place / "provenance.json").read_text())
    assert ((place / "submission.csv").read_text(), made["kernel"], made["kernel_version"]) == ("of the chain", REF, 1)


KILLED = """[{"stream_name":"stdout","time":1.5,"data":"one\\n"}
,{"stream_name":"stdout","time":31900.5,"data":"two, [2]\\n"}
,{"stream_name":"stdout","time":31902.5,"data":"three\\n"}
]"""


@pytest.mark.parametrize(("cut", "lines"), [(0, 3), (1, 3), (2, 3), (9, 2), (50, 2)])
def test_a_log_whose_end_is_missing_is_read_as_far_as_it_goes(cut, lines):
    said, seconds = read_log(KILLED[: len(KILLED) - cut])
    assert (said, seconds) == (["one", "two, [2]", "three"][:lines], (0, 1.5, 31_900.5, 31_902.5)[lines])
    assert read_log("plain, [\n,text\n") == (["plain, [", ",text"], 0)


@pytest.mark.parametrize("sessions", ['"many"', "[[]]", "7", '{"1": 2}', '[{"steps": "far"}]', '[{"steps": Infinity}]'])
def test_odd_sessions_in_run_json_tell_no_steps(sessions):
    assert steps_told(json.loads(f'{{"sessions": {sessions}}}')) == 0


@pytest.mark.slow
def test_the_command_runs_a_chain_and_pulls_what_it_left(tmp_path, server):
    kernel(tmp_path)
    (tmp_path / "kernels" / "small" / "main.py").write_text("open('submission.csv', 'w').write('Id,Category\\n')\n")
    words = [sys.executable, "-m", "kit"]
    done = subprocess.run([*words, "chain", "small", "--max-sessions", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "after 1 session, step 0" in done.stdout, done.stderr
    subprocess.run([*words, "pull", "small"], cwd=tmp_path, check=True, timeout=120)
    (place,) = (tmp_path / "submissions").glob("*-small")
    assert (place / "submission.csv").read_text() == "Id,Category\n"
    assert json.loads((place / "provenance.json").read_text())["kernel_version"] == 1
