"""The real Kaggle client against a server on loopback that breaks in Kaggle's ways."""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from server import DROP_AFTER, DROP_BEFORE, KEY, USER, Server, Silence, loopback

from kit.cli.kaggle import session_limit
from kit.errors import KitError
from kit.remote.client import connect
from kit.remote.metadata import read_metadata, write_owner
from kit.remote.push import Pushed, push, wait_for

KERNELS = Path(__file__).parents[2] / "kernels"
REF = f"{USER}/kit-smoke"


@pytest.fixture
def server(monkeypatch):
    yield from loopback(monkeypatch, Server())


@pytest.fixture
def clone(tmp_path):
    for name in ("smoke", "record", "study"):
        shutil.copytree(KERNELS / name, tmp_path / "kernels" / name, ignore=shutil.ignore_patterns("build"))
    return tmp_path


@pytest.fixture
def slept():
    return []


@pytest.fixture
def kaggle(server, slept):
    """The client, whose pauses are written down and not waited for."""
    client = connect()
    client.api.args = ["--local"]  # read at the client's import, which another test may have caused
    return type(client)(client.api, slept.append)


def send(clone, kaggle, **how):
    said = []
    return push(clone / "kernels" / "smoke", replace(kaggle, say=said.append), **how), said


def refused(clone, kaggle, **how):
    with pytest.raises(KitError) as error:
        send(clone, kaggle, **how)
    assert KEY not in str(error.value)
    return str(error.value)


def edit(clone, **fields):
    file = clone / "kernels" / "smoke" / "kernel-metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_push_sends_the_bundle_and_every_field_of_the_metadata(clone, kaggle, server):
    edit(clone, enable_gpu=True, machine_shape="NvidiaTeslaT4", docker_image="gcr.io/kaggle-images/python", keywords=["image"])
    pushed, _ = send(clone, kaggle, timeout=3600)
    assert pushed == Pushed(REF, 1, f"https://www.kaggle.com/code/{REF}")
    sent = server.kernels[REF].requests[0]
    assert sent["text"] == (clone / "kernels" / "smoke" / "build" / "main.py").read_text()
    assert (sent["newTitle"], sent["kernelType"], sent["isPrivate"], sent["enableInternet"]) == ("kit smoke", "script", True, False)
    assert (sent["enableGpu"], sent["machineShape"], sent["language"]) == (True, "NvidiaTeslaT4", "python")
    assert (sent["dockerImage"], sent["categoryIds"]) == ("gcr.io/kaggle-images/python", ["image"])
    assert sent["sessionTimeoutSeconds"] == 3600
    assert "os.environ.setdefault('KIT_SESSION_LIMIT', '3600')" in sent["text"]


@pytest.mark.parametrize(("timeout", "words"), [("10m", "no time to end in order. Give it 20 min"), ("13h", "Give it 12 h 00 min at most")])
def test_a_limit_that_no_session_can_keep_is_refused(timeout, words):
    assert session_limit("4h") == 14_400
    with pytest.raises(KitError, match=words):
        session_limit(timeout)


def test_a_push_sends_its_own_script_whoever_else_writes_one_there(clone, kaggle, server):
    """Two shares of a study are pushed from one folder."""
    built, other, over = clone / "kernels" / "smoke" / "build" / "main.py", clone / "other.py", threading.Event()

    def replace_it():
        while not over.is_set():
            other.write_text("print('another share')\n")
            with suppress(OSError):  # there is no folder yet
                os.replace(other, built)

    thread = threading.Thread(target=replace_it)
    thread.start()
    try:
        send(clone, kaggle, environment={"KIT_STUDY": "this share"})
    finally:
        over.set()
        thread.join()
    assert "this share" in server.kernels[REF].requests[0]["text"]


def test_a_second_push_is_the_next_version(clone, kaggle):
    assert [send(clone, kaggle)[0].version for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("fault", [429, 500, 503, DROP_BEFORE])
def test_a_push_that_did_not_arrive_is_sent_again(clone, kaggle, server, slept, fault):
    """Also where the version before has the same text."""
    send(clone, kaggle)
    server.faults["SaveKernel"].extend([fault, fault])
    pushed, said = send(clone, kaggle)
    assert pushed.version == len(server.kernels[REF].requests) == 2
    assert slept == [2, 5]
    assert "asking whether the push arrived" in said[0]


def test_a_push_that_arrived_before_the_connection_broke_is_not_sent_twice(clone, kaggle, server):
    send(clone, kaggle)
    server.faults["SaveKernel"].append(DROP_AFTER)
    pushed, _ = send(clone, kaggle)
    assert pushed.version == len(server.kernels[REF].requests) == 2


def test_a_version_that_another_pushes_meanwhile_is_not_taken_for_ones_own(clone, kaggle, server):
    def say(line):
        if "asking whether the push arrived" in line:
            send(clone, kaggle, environment={"WHOSE": "another's"})

    server.faults["SaveKernel"].append(DROP_BEFORE)
    pushed = push(clone / "kernels" / "smoke", replace(kaggle, say=say))
    assert ["WHOSE" in request["text"] for request in server.kernels[REF].requests] == [True, False]
    assert pushed.version == 2


def test_a_push_that_arrived_at_the_last_try_did_arrive(clone, kaggle, server):
    server.faults["SaveKernel"].extend([DROP_BEFORE] * 4 + [DROP_AFTER])
    pushed, _ = send(clone, kaggle)
    assert pushed.version == len(server.kernels[REF].requests) == 1


@pytest.mark.parametrize(
    "sources",
    [
        {"competition_sources": ["nowhere"]},
        {"dataset_sources": ["someone/nowhere"]},
        {"kernel_sources": ["someone/nowhere"]},
        {"model_sources": ["someone/nowhere/pyTorch/small/1"]},
    ],
)
def test_an_answer_that_is_lost_hides_no_dropped_source(clone, kaggle, server, sources):
    edit(clone, **sources)
    server.faults["SaveKernel"].append(DROP_AFTER)
    assert send(clone, kaggle)[0].version == 1
    ((source,),) = sources.values()
    server.missing.add(source)
    server.faults["SaveKernel"].append(DROP_AFTER)
    assert f"as version 2 but dropped {next(iter(sources)).removesuffix('_sources')} {source}" in refused(clone, kaggle)


def test_a_kaggle_that_never_answers_ends_in_words(clone, kaggle, server):
    server.faults["SaveKernel"].extend([503] * 9)
    assert "503: fault 503, 5 times, and the push did not arrive" in refused(clone, kaggle)
    server.faults["GetKernel"].extend([DROP_BEFORE] * 9)
    assert "No answer from Kaggle" in refused(clone, kaggle)


def test_a_patient_client_goes_on_asking_and_says_so_once(clone, kaggle, server, slept):
    server.faults["GetKernel"].extend([503] * 6)
    pushed, said = send(clone, replace(kaggle, patience=7200))
    assert pushed.version == 1
    assert slept == [2, 5, 15, 45, 300, 300]
    assert said == ["Kaggle answers 503: fault 503; asking again every 5 minutes, for 2 h at most"]
    server.faults["GetKernel"].extend([503] * 7)
    assert "503: fault 503, 7 times. Try again later." in refused(clone, replace(kaggle, patience=600))


def test_each_wait_for_a_free_session_has_all_of_its_tries(clone, kaggle, server):
    server.faults["SaveKernel"].extend([503, "Maximum batch GPU session count of 2 reached"] * 7)
    pushed, said = send(clone, kaggle, patience=3600)
    assert pushed.version == 1
    assert sum("asking whether the push arrived" in line for line in said) == 7


@pytest.mark.parametrize("answer", [b"<html>Sign in to this network</html>", b"{}", b"null", b'{"metadata": 7}'])
def test_what_is_no_answer_is_asked_again_and_ends_in_words(clone, kaggle, server, answer):
    server.faults["GetKernel"].extend([answer] * 2)
    assert send(clone, kaggle)[0].version == 1
    server.faults["GetKernel"].extend([answer] * 9)
    assert "An answer from Kaggle that can't be read (" in refused(clone, kaggle)


def test_a_state_that_the_client_does_not_know_ends_in_words(clone, kaggle, server):
    pushed, _ = send(clone, kaggle)
    server.kernels[REF].states = type(server.kernels[REF].states)(["DREAMING"])
    with pytest.raises(KitError, match=r"can't be read \('DREAMING'\), 5 times"):
        wait_for(pushed, kaggle)


def test_a_kaggle_that_is_silent_is_not_waited_for_for_ever(clone, kaggle, server, slept):
    impatient = replace(kaggle, seconds=0.3)
    server.faults["GetKernel"].append(Silence(1))
    server.faults["SaveKernel"].append(Silence(1))  # it takes the push, and says so too late
    pushed, said = send(clone, impatient)
    assert said == ["no answer from Kaggle (ReadTimeout); asking whether the push arrived"]
    assert pushed.version == len(server.kernels[REF].requests) == 1


@pytest.mark.parametrize(
    ("code", "words"), [(401, "make a new one"), (403, "accept its rules"), (404, "compare `id`"), (409, "the slug in `id`")]
)
def test_a_refusal_comes_with_kaggles_words_and_what_to_do(clone, kaggle, server, code, words):
    server.faults["SaveKernel"].append(code)
    message = refused(clone, kaggle)
    assert f"({code}): fault {code}" in message
    assert words in message
    assert server.calls.count("SaveKernel") == 1


def test_where_kaggle_does_not_say_which_version_there_is_nothing_is_sent(clone, kaggle, server):
    server.faults["GetKernel"].append(401)
    assert "make a new one" in refused(clone, kaggle)
    assert "SaveKernel" not in server.calls


def test_an_answer_with_an_error_is_no_success(clone, kaggle, server):
    server.faults["SaveKernel"].append("Notebook is too large")
    assert "did not take someone/kit-smoke: Notebook is too large" in refused(clone, kaggle)


def test_an_answer_without_a_version_is_no_success(clone, kaggle, server):
    server.faults["SaveKernel"].append(b"{}")
    assert "gave someone/kit-smoke no version number" in refused(clone, kaggle)


def test_a_dropped_source_is_no_success(clone, kaggle, server):
    server.missing.add(REF)
    edit(clone, kernel_sources=["YOUR-USERNAME/kit-smoke"])
    assert "as version 1 but dropped kernel someone/kit-smoke" in refused(clone, kaggle)


def test_a_full_account_is_waited_for_with_the_reason(clone, kaggle, server, slept):
    full = "Maximum batch GPU session count of 2 reached"
    server.faults["SaveKernel"].extend([full, full])
    pushed, said = send(clone, kaggle, patience=3600)
    assert pushed.version == 1
    assert slept == [60, 60]
    assert said == [f"waiting for a free session: {full}"] * 2
    server.faults["SaveKernel"].append(full)
    assert "--patience" in refused(clone, kaggle)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"title": "another title"}, "the slug 'kit-smoke' is not what Kaggle makes of the title 'another title': 'another-title'"),
        ({"title": "kit", "id": "YOUR-USERNAME/kit"}, "title is 'kit', wanted is at least 5 characters"),
        ({"title": "k" * 60}, "wanted is at most 48 characters"),
        ({"id": "kit-smoke"}, "id is 'kit-smoke', wanted is owner/slug"),
        ({"id": None}, "id is None, wanted is text"),
        ({"id": "other/kit-smoke"}, "id names 'other', the credentials are those of 'someone'"),
        ({"enable_gpus": True}, "enable_gpus is unknown and would be ignored"),
        ({"enable_gpu": "yes"}, "enable_gpu is 'yes', wanted is true or false"),
        ({"language": "pyton"}, "language is 'pyton', wanted is 'python'"),
        ({"kernel_type": "notebook"}, "kernel_type is 'notebook', wanted is 'script'"),
        ({"code_file": "other.py"}, "code_file is 'other.py', wanted is 'build/main.py'"),
        ({"docker_image_pinning_type": "newest"}, "wanted is 'original' or 'latest'"),
        ({"kernel_sources": "someone/kit-small"}, "kernel_sources is 'someone/kit-small', wanted is a list in [ ]"),
        ({"kernel_sources": ["code/someone/kit-small"]}, "kernel_sources.0 is 'code/someone/kit-small', wanted is owner/slug"),
        ({"competition_sources": ["c/hw13"]}, "competition_sources.0 is 'c/hw13', wanted is slug"),
        ({"model_sources": ["someone/net"]}, "wanted is owner/model/framework/variation/version"),
        ({"dataset_sources": None, "keywords": [1]}, "dataset_sources is None, wanted is a list in [ ]; keywords.0 is 1, wanted is text"),
    ],
)
def test_metadata_that_would_go_astray_is_refused_before_anything_is_sent(clone, kaggle, server, fields, words):
    edit(clone, **fields)
    assert words in refused(clone, kaggle)
    assert server.calls == []


def test_the_accounts_name_stands_for_your_username_in_all_sources(clone, kaggle, server):
    edit(clone, dataset_sources=["YOUR-USERNAME/teacher"], model_sources=["YOUR-USERNAME/net/pyTorch/small/1"])
    send(clone, kaggle)
    sent = server.kernels[REF].requests[0]
    assert (sent["datasetDataSources"], sent["modelDataSources"]) == ([f"{USER}/teacher"], [f"{USER}/net/pyTorch/small/1"])


def test_a_field_that_is_left_to_the_client_is_refused(clone):
    file = clone / "kernels" / "smoke" / "kernel-metadata.json"
    file.write_text(json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != "enable_internet"}))
    with pytest.raises(KitError, match="enable_internet must be said"):
        read_metadata(clone / "kernels" / "smoke", USER)


def test_a_session_is_followed_to_its_end(clone, kaggle, server, slept):
    pushed, _ = send(clone, kaggle)
    kernel, said = server.kernels[REF], []
    kernel.states.extendleft(["RUNNING", "RUNNING", "QUEUED"])
    kernel.log = json.dumps([{"stream_name": "stdout", "data": line} for line in ("distil 1/2\n", f"the key is {KEY}\n", "done\n")])
    wait_for(pushed, replace(kaggle, say=said.append))
    states = [f"{REF} version 1: {state}" for state in ("QUEUED", "RUNNING", "COMPLETE")]
    assert [line for line in said if line in states] == states
    assert said.count("done") == 1
    assert not any(KEY in line for line in said)
    assert slept == [2, 5, 10]  # a session that fails at once is soon known; then every 20 seconds


def test_an_outage_ends_no_following(clone, kaggle, server):
    pushed, said = send(clone, kaggle)
    server.faults["GetKernelSessionStatus"].extend([503] * 9)
    wait_for(pushed, replace(kaggle, say=said.append))
    assert said[-2:] == ["Kaggle answers 503: fault 503; asking again every 5 minutes, for 12 h at most", f"{REF} version 1: COMPLETE"]


def test_a_session_that_failed_is_an_error_with_the_end_of_its_log(clone, kaggle, server):
    pushed, _ = send(clone, kaggle)
    kernel = server.kernels[REF]
    kernel.states, kernel.log, kernel.failure = type(kernel.states)(["ERROR"]), "one\nerror: no GPU\n", "exit code 1"
    with pytest.raises(KitError, match=r"ended as ERROR\. exit code 1\none\nerror: no GPU"):
        wait_for(pushed, kaggle).insist("it")


def command(clone, *words, verb="push"):
    return subprocess.run([sys.executable, "-m", "kit", verb, *words], cwd=clone, capture_output=True, text=True, timeout=120)


def test_the_command_prints_the_version_and_no_secret(clone, server):
    done = command(clone, "smoke")
    assert done.returncode == 0, done.stderr
    assert f"{REF} version 1" in done.stdout
    server.faults["SaveKernel"].append(403)
    failed = command(clone, "smoke")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert KEY not in done.stdout + done.stderr + failed.stdout + failed.stderr


def test_a_dry_run_shows_the_request_and_sends_nothing(clone, server):
    done = command(clone, "smoke", "--dry-run", "--timeout", "2h")
    assert json.loads(done.stdout)["id"] == REF
    assert json.loads(done.stdout)["session_timeout_seconds"] == 7200
    assert "sha256" in json.loads(done.stdout)["text"]
    assert server.calls == []


@pytest.mark.slow
def test_a_share_of_a_study_is_a_kernel_of_its_own_that_knows_what_to_run(clone, server):
    done = command(clone, "study/", "--study", "hw13", "--shard", "2/3", "--dry-run")  # as a shell completes it
    assert json.loads(done.stdout)["id"] == f"{USER}/kit-study-hw13-2-of-3", done.stderr
    built = (clone / "kernels" / "study" / "build" / "main.py").read_text()
    assert 'os.environ.setdefault(\'KIT_STUDY\', \'{"study":"hw13"' in built


@pytest.mark.slow
def test_a_share_that_is_pushed_again_has_its_own_output_attached_and_its_journal_is_pulled(clone, server):
    share, ref = ("study", "--study", "hw13", "--shard", "1/4"), f"{USER}/kit-study-hw13-1-of-4"
    for _ in range(2):
        done = command(clone, *share)
        assert done.returncode == 0, done.stderr
    first, second = server.kernels[ref].requests
    assert (first.get("kernelDataSources"), second["kernelDataSources"]) == (None, [ref])
    server.kernels[ref].outputs[2] = clone / "left"
    (clone / "left").mkdir()
    (clone / "left" / "hw13.jsonl").write_text("{}\n")
    done = command(clone, *share, verb="pull")
    assert (clone / "runs" / "kit-study-hw13-1-of-4" / "hw13.jsonl").read_text() == "{}\n", done.stderr


def test_without_credentials_it_says_where_they_go(clone, server, monkeypatch, tmp_path):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    done = command(clone, "smoke")
    assert done.returncode == 1
    assert "There are no Kaggle credentials here" in done.stderr
    assert os.environ["KAGGLE_USERNAME"] not in done.stderr


def test_a_client_that_is_too_old_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "kaggle-1.7.4.5.dist-info").mkdir()
    (tmp_path / "kaggle-1.7.4.5.dist-info" / "METADATA").write_text("Name: kaggle\nVersion: 1.7.4.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KitError, match=r"can't be imported \(1\.7\.4\.5 is too old\): pip install 'kaggle>=2\.2' six\."):
        connect()


def test_the_plain_client_pushes_a_folder_as_bundling_left_it(clone, server):
    """`kit bundle` and then `kaggle kernels push -p`, as the documents say."""
    words, kernel = {"cwd": clone, "capture_output": True, "text": True, "timeout": 120}, clone / "kernels" / "smoke"
    bundled = subprocess.run([sys.executable, "-m", "kit", "bundle", "smoke"], **words)
    assert "YOUR-USERNAME is someone now" in bundled.stdout, bundled.stderr
    client = Path(sys.executable).with_name("kaggle")
    pushed = subprocess.run(
        [client, "kernels", "push", "-p", str(kernel)], env=os.environ | {"KAGGLE_API_ENVIRONMENT": "LOCALHOST"}, **words
    )
    assert "Kernel version 1 successfully pushed" in pushed.stdout, pushed.stdout + pushed.stderr
    assert server.kernels[REF].requests[0]["text"] == (kernel / "build" / "main.py").read_text()
    assert not write_owner(kernel, USER)
