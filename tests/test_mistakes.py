"""What a tired person does at midnight: each answer is one paragraph that says what to do."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from pathlib import Path

import pytest
from server import Server, loopback

from kit import doctor
from kit.errors import KitError
from kit.files import sha256_of
from kit.remote.bundle import carried_files
from kit.remote.client import connect, no_credentials


def test_the_folder_in_which_the_archive_still_lies(refused, drawn, tmp_path):
    shutil.make_archive(str(tmp_path / "kaggle" / "ml2023spring-hw13"), "zip", drawn / "evaluation")
    assert "Unpack ml2023spring-hw13.zip first." in refused(tmp_path, "new", "mine", "--data", "kaggle")
    assert "is an archive. Unpack it" in refused(tmp_path, "new", "mine", "--data", "kaggle/ml2023spring-hw13.zip")


def test_an_archive_for_a_teacher(refused, tmp_path):
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path)
    printed = refused(tmp_path, "inspect", "photos.zip")
    assert "report" not in printed
    assert "A state dict is wanted" in printed


def test_a_disk_that_is_full_while_photos_are_drawn(tmp_path):
    """By a limit that lets no file grow: the library that writes photos does not say which one it could not write."""
    limited = ["bash", "-c", 'ulimit -f 0; exec "$0" -m kit sample photos', sys.executable]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr[:7]) == (1, "error: "), done.stderr
    assert "a quota or ulimit" in done.stderr


def test_a_file_that_can_not_be_read_is_not_answered_with_where_to_write(refused, tmp_path):
    (tmp_path / "photos.csv").touch()
    printed = refused(tmp_path, "check", "photos.csv/x.csv")  # root may read all: a file in a file stands for permissions, too
    assert printed.startswith("error: photos.csv/x.csv: Not a directory. ")
    assert printed.endswith("has vanished. Bring it back, or name another place.\n")


def test_a_home_that_the_shell_did_not_put_in_is_no_folder_of_that_name(command, refused, drawn, tmp_path, monkeypatch):
    """As of --data=~/photos, or of one in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(drawn, tmp_path / "home" / "photos")
    assert f"kit run ./mine.py --data {tmp_path}/home/photos --tiny" in command(tmp_path, "new", "mine", "--data=~/photos")[0].replace(
        "\n", ""
    )
    assert f"There is no folder {tmp_path}/home/none." in refused(tmp_path, "new", "other", "--data", "~/none")
    assert f"{tmp_path}/home/photos holds training/ already" in refused(tmp_path, "sample", "~/photos")
    assert not (tmp_path / "~").exists()


def test_a_path_that_is_too_long_is_said_to_be(refused, tmp_path):
    """As where names were pasted, or listed, in its place."""
    long = "a.jpg " * 60
    assert "File name too long. Shorten it, or name another place." in refused(tmp_path, "new", "mine", "--data", long)
    assert doctor.dataset(Path(long))[::2] == ("broken", "as it says; docs/your-own-photos.md has the shapes that are known")


def test_a_users_folder_whose_name_is_no_utf_8(refused, drawn, tmp_path):
    assert "'runs/caf\\udce9' is not valid UTF-8" in refused(
        tmp_path, "run", "sample", "--tiny", "--data", str(drawn), "--out", os.fsdecode(b"runs/caf\xe9")
    )


@pytest.mark.skipif(not shutil.which("unshare"), reason="no other user can be tried here")
def test_a_containers_user_who_has_neither_a_name_nor_a_home(tmp_path):
    """As docker's --user gives one. torch asks the system for the name where no variable tells, and ended in an AssertionError; a paragraph
    looks for keys in the home that it must not show."""
    unnamed = ["env", "-u", "USER", "-u", "LOGNAME", "-u", "HOME", "unshare", "--user", "--map-user=12345"]
    if subprocess.run([*unnamed, "true"]).returncode:
        pytest.skip("no other user can be tried here")
    done = subprocess.run([*unnamed, sys.executable, "-m", "kit", "inspect", "none.kit"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.startswith("error: none.kit can't be read"), done.stderr


@pytest.mark.skipif(not shutil.which("unshare"), reason="no other user can be tried here")
def test_a_folder_that_may_not_be_read_or_written_to_is_named_itself_with_what_the_command_can_do(drawn, tmp_path):
    other = ["unshare", "--user", "--map-user=12345", sys.executable, "-m", "kit"]  # root may do all
    (closed := shutil.copytree(drawn, tmp_path / "mine") / "evaluation").chmod(0)
    (tmp_path / "work").mkdir(mode=0o500)
    done = subprocess.run([*other, "new", "mine", "--data", "../mine"], cwd=tmp_path / "work", capture_output=True, text=True)
    closed.chmod(0o700)
    if "Operation not permitted" in done.stderr or not done.returncode:
        pytest.skip("no other user can be tried here")
    assert done.stderr == "error: ../mine/evaluation: Permission denied. Mend its permissions, or name another place.\n"
    done = subprocess.run([*other, "new", "mine", "--data", "../mine"], cwd=tmp_path / "work", capture_output=True, text=True)
    assert done.stderr.startswith("error: mine.py can't be written (Permission denied)")
    assert done.stderr.endswith("or from another working folder.\n")


def test_a_csv_is_checked_by_the_rules_of_its_own_run(command, refused, drawn, tmp_path):
    rows = "".join(f"{photo.stem},{i % 6}\n" for i, photo in enumerate(sorted((drawn / "evaluation").iterdir())))
    (tmp_path / "submission.csv").write_text("Id,Category\n" + rows)
    assert "24 rows, wanted are 2,218" in refused(tmp_path, "check", ".")
    (tmp_path / "provenance.json").write_text(json.dumps({"recipe": "mine", "competition": "any"}))
    assert "give --data" in refused(tmp_path, "check", ".")
    assert "fit for any" in command(tmp_path, "check", ".", "--data", str(drawn))[0]
    made = {"recipe": "mine", "competition": "any", "csv_sha256": sha256_of(tmp_path / "submission.csv"), "parameters": 99_891}
    (tmp_path / "provenance.json").write_text(json.dumps(made))
    words = ("check", ".", "--data", str(drawn), "--competition", "60000params")
    assert "99,891 parameters are over 60000params's limit of 60,000" in refused(tmp_path, *words)
    (tmp_path / "submission.csv").write_text("Id,Category\n" + rows.replace(",0", ",1"))
    printed, _ = command(tmp_path, *words)
    assert "is not the file that provenance.json beside it tells of: its student's limit is not checked" in " ".join(printed.split())


def test_a_csv_is_checked_whatever_share_its_run_held_out(command, refused, drawn, tmp_path):
    """Of twelve photos of six classes a fifth can't be: the run asked for a half."""
    shutil.copytree(drawn / "evaluation", tmp_path / "few" / "evaluation")
    (tmp_path / "few" / "training").mkdir()
    for photo in (drawn / "training").glob("?_[01].jpg"):
        shutil.copy(photo, tmp_path / "few" / "training")
    rows = "".join(f"{photo.stem},{i % 6}\n" for i, photo in enumerate(sorted((drawn / "evaluation").iterdir())))
    (tmp_path / "submission.csv").write_text("Id,Category\n" + rows)
    words = ["check", "submission.csv", "--competition", "any", "--data", "few"]
    assert "fit for any" in command(tmp_path, *words)[0]
    (tmp_path / "submission.csv").write_text("Id,Category\n" + rows.rpartition("0023")[0])
    assert "23 rows, wanted are 24" in refused(tmp_path, *words)


def test_photos_of_another_competition_are_answered_with_what_each_command_takes(refused, drawn, tmp_path):
    for split in ("training", "validation"):
        for photo in (drawn / split).iterdir():
            (folder := tmp_path / "mine" / split / f"kind{photo.name[0]}").mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder)
    shutil.copytree(drawn / "evaluation", tmp_path / "mine" / "evaluation")
    (tmp_path / "x.csv").write_text("Id,Category\n0001,1\n")
    for words in (["study", "hw13"], ["submit", "x.csv", "--dry-run"]):  # neither has --set, nor the competition any
        said = refused(tmp_path, *words, "--data", "mine")
        assert "the competition has 11 classes. Give that competition's photos; for a data set of your own there are `kit run … " in said


@pytest.fixture
def server(monkeypatch):
    yield from loopback(monkeypatch, Server())


def test_an_earlier_output_that_is_not_there_is_no_new_beginning(refused, drawn, tmp_path):
    assert "no folder nothere to go on from" in refused(
        tmp_path, "run", "sample", "--tiny", "--data", str(drawn), "--resume-from", "nothere"
    )


def test_photos_that_are_there_are_not_said_to_be_drawn(refused, drawn, tmp_path):
    assert "already, and nothing was drawn" in refused(tmp_path, "sample", str(drawn), "--seed", "7")


def test_a_section_given_as_a_word_is_answered_with_its_form(refused, tmp_path):
    assert "write prune.FIELD=VALUE" in refused(tmp_path, "run", "sample", "--dry-run", "--set", "prune=none")


def test_doctor_sees_that_a_token_is_wrong(server):
    """Kaggle's other refusals leave the GPU time unknown, and no more."""
    from kit.doctor import kaggle

    connect().api.args = ["--local"]  # read at the client's import, which another test may have caused
    server.faults["GetAcceleratorQuotaStatistics"] = deque([401, 404])
    verdict, _, remedy = kaggle()
    assert (verdict, "make a new one on kaggle.com/settings" in remedy) == ("note", True)
    assert kaggle()[0] == "ok"


@pytest.mark.slow
def test_without_kaggles_client_and_torch_pruning_it_says_what_to_install(server, tmp_path):
    """Python without its own site-packages, and with links to all in it but these two."""
    clone, packages = Path(__file__).parents[1], tmp_path / "packages"
    packages.mkdir()
    for place in Path(sysconfig.get_path("purelib")).iterdir():
        if not place.name.startswith(("kaggle", "torch_pruning")):
            (packages / place.name).symlink_to(place)
    shutil.copytree(clone / "kernels", tmp_path / "kernels")
    around = os.environ | {"PYTHONPATH": f"{clone}{os.pathsep}{packages}", "COLUMNS": "200"}

    def run(*words):
        done = subprocess.run([sys.executable, "-S", "-m", "kit", *words], cwd=tmp_path, env=around, capture_output=True, text=True)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    said = run("doctor")
    assert re.search(r"broken │ libraries .*missing: kaggle, kagglesdk, torch_pruning", said)
    assert re.search(r"broken │ Kaggle client and GPU time .*kaggle.*pip install -r requirements\.txt", said)
    assert re.search(r"broken │ bundles .*torch-pruning is not installed", said)
    assert "torch-pruning is not installed, and a bundle carries it: pip install torch-pruning." in run("bundle", "smoke")
    assert "Kaggle's client can't be imported (No package metadata was found for kaggle): pip install 'kaggle>=2.2' six." in run(
        "push", "smoke"
    )


def test_torch_pruning_without_a_list_of_its_files_is_not_left_out_of_a_bundle(tmp_path, monkeypatch):
    bare = tmp_path / "torch_pruning-1.6.0.dist-info"
    bare.mkdir()
    (bare / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-pruning\nVersion: 1.6.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KitError, match=r"torch-pruning has no list of its files \(RECORD\).*--force-reinstall"):
        carried_files()


def test_a_token_file_that_holds_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert "There are no Kaggle credentials" in no_credentials()
    (tmp_path / "kaggle.json").write_text("{oops")
    assert f"{tmp_path / 'kaggle.json'} holds no token that can be read" in no_credentials()
    (tmp_path / "kaggle.json").write_text('"KGAT_saved-with-its-quotes"')
    with pytest.raises(KitError, match=r"kaggle\.json holds no token that can be read"):
        connect()
    (tmp_path / "kaggle.json").write_text('{"key": "0123456789abcdef0123456789abcdef"}')
    assert f"{tmp_path / 'kaggle.json'} holds a key and no user name" in no_credentials()
    (tmp_path / "kaggle.json").unlink()
    (tmp_path / "access_token").write_text("KGAT_expired-long-ago")
    assert f"does not take what {tmp_path / 'access_token'} holds. The token is wrong" in no_credentials()
