"""Every verb's help and the words of a mistake, without starting a run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from kit import doctor
from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.cli.main import STOPPED
from kit.compress.foreign import WRITERS
from kit.compress.pack import pack
from kit.config.choices import Format
from kit.config.recipes import recipe
from kit.console import Log, progress
from kit.errors import KitError
from kit.export import GRAPHS
from kit.models.students import build_student, widths_of

CAPTURED = {"capture_output": True, "text": True, "timeout": 60}
KIT = get_command(app)
UNITS = re.compile(r"\b(px|share|steps?|sessions|seeds|photos|parameters|classes|channels|seconds|threads)\b", re.I)


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def test_the_version_is_the_one_that_the_changes_are_headed_with():
    head = re.search(r"^## (\S+), \d{4}-\d\d-\d\d$", (Path(__file__).parents[1] / "CHANGELOG.md").read_text(), re.M)
    assert invoke("--version").output.startswith(f"kaggle-submission-kit {head[1]}, commit ")
    assert version("kaggle-submission-kit") == head[1]


def test_a_study_of_ones_own_photos_in_a_clone_does_not_go_on_with_the_clone_s_journal(drawn, tmp_path, monkeypatch):
    """Nothing was run, or it was refused: the journal that a clone comes with has all arms, of other photos."""
    for folder in ("kit", "submissions", "docs/studies"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "docs" / "studies" / "cifar-slim.jsonl", tmp_path / "docs" / "studies")
    monkeypatch.chdir(tmp_path)
    assert "the budget is over" in invoke("study", "cifar-slim", "--data", str(drawn), "--budget", "1s").output


def test_a_study_whose_page_has_no_place_for_its_table_says_so_before_it_runs(drawn, tmp_path):
    (tmp_path / "record.md").write_text("# Mine\n", encoding="utf-8")
    said = invoke("study", "record", "--data", str(drawn), "--out", str(tmp_path / "out"), "--docs", str(tmp_path / "studies"))
    assert "record.md has no place for this table: write the lines <!-- study record -->" in str(said.exception)
    assert not (tmp_path / "out").exists()


def test_a_terminal_that_lacks_a_letter_is_shown_another():
    """As Latin-1 lacks most: a run ended where it said the name of a class."""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "kit", "--help"], env=environment, **CAPTURED)
    assert "arms \\xd7 seeds" in done.stdout, done.stderr


def test_a_run_whose_output_is_closed_goes_on(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with progress("decoding", 2) as moved:
        moved(1)


def full_disk():
    return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("screen", [os.openpty, os.pipe, full_disk])
def test_what_is_at_work_goes_on_when_its_screen_is_gone(screen, tmp_path):
    """A terminal that is closed over a run in the background, `kit run … | head`, `kit run … > log` on a disk that fills."""
    work = (
        "import sys\nfrom pathlib import Path\nfrom kit.console import Log, progress\n"
        "log = Log(Path(sys.argv[1]))\n"
        "with progress('distil', 2) as moved:\n"
        "    Path(sys.argv[1]).touch()\n"
        "    sys.stdin.readline()\n"
        "    moved(1)\n"
        "    log('one')\n"
        "log('two')\n"
    )
    file, (reader, writer) = tmp_path / "log.txt", screen()
    process = subprocess.Popen([sys.executable, "-c", work, file], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    while not file.exists() and process.poll() is None:
        time.sleep(0.02)
    os.close(reader)
    said = process.communicate("\n", timeout=60)[1]
    assert [line.split()[-1] for line in file.read_text().splitlines()] == ["one", "two"], said
    assert process.returncode == 0, said


@pytest.mark.parametrize("verb", KIT.commands)
def test_every_verb_says_what_for_and_shows_an_example_of_itself(verb):
    command = KIT.commands[verb]
    assert 20 < len(command.help) < 140
    assert "\n" not in command.help.strip()
    assert command.epilog.startswith(f"Example: `kit {verb}")
    shown = [line.rstrip() for line in invoke(verb, "--help").output.splitlines()]
    assert any(line.startswith(" Example: ") for line in shown)
    assert not any("<bool>" in line for line in shown)  # a flag takes no value
    assert not any(re.search(r"^ Usage: .*(\[\[|…|\.{3}\})", line) for line in shown)  # typer writes brackets and dots itself
    for example in re.findall(r"`(k[^`]+)`", command.epilog):  # to be copied: whole, with nothing after it, 80 columns wide
        assert [line for line in shown if line.endswith(f" {example}")], example


@pytest.mark.parametrize("verb", KIT.commands)
def test_every_option_says_what_it_is_and_numbers_have_units(verb):
    for option in KIT.commands[verb].params:
        assert option.help, option.name
        if option.bare_type() in (int, float):
            assert UNITS.search(option.help), f"{option.name}: {option.help}"
        if re.search(r"\btime\b|how long|ends .* after", option.help, re.I):
            assert re.search(r"such as \d+[hm]", option.help), f"{option.name}: {option.help}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_verbs(shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # the shell is named; make's own is none of these
    script = CliRunner().invoke(app, ["--show-completion", shell], prog_name="kit").output
    assert "_KIT_COMPLETE" in script
    words = {"bash": {"COMP_WORDS": "kit pl", "COMP_CWORD": "1"}, "zsh": {"_TYPER_COMPLETE_ARGS": "kit pl"}}
    words |= {"fish": {"_TYPER_COMPLETE_ARGS": "kit pl", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}}
    environment = os.environ | words[shell] | {"_KIT_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-c", "from kit.cli.main import app; app(prog_name='kit')"], env=environment, **CAPTURED)
    assert "plan" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("verb", "option", "begun", "wanted"),
    [
        ("run", "name", "re", ["record"]),
        ("push", "name", "m", ["mine"]),
        ("plan", "name", "./", ["./mine.py"]),
        ("study", "name", "ci", ["cifar-slim"]),
        ("export", "form", "onnx", ["onnx", "onnx-int8"]),
    ],
)
def test_the_shell_completes_values(verb, option, begun, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    (tmp_path / "kernels" / "mine").mkdir(parents=True)
    (tmp_path / "kernels" / "mine" / "main.py").touch()
    asked = next(param for param in KIT.commands[verb].params if param.name == option)
    context = KIT.commands[verb].make_context(verb, [], resilient_parsing=True)
    assert [item.value for item in asked.shell_complete(context, begun)] == wanted


@pytest.mark.parametrize("half", ["--epochs", "--set"])
def test_words_that_are_half_written_are_refused_by_the_command_and_not_while_a_shell_completes(half):
    words = ["record", half, "train.epochs"]
    KIT.commands["run"].make_context("run", [*words], resilient_parsing=True)
    with pytest.raises(KitError, match=r"--set train\.epochs"):
        KIT.commands["run"].make_context("run", [*words])


def test_every_format_that_is_offered_is_written():
    assert (*WRITERS, *GRAPHS) == get_args(Format)


@pytest.mark.parametrize(
    ("words", "option", "known"),
    [
        (("export", "run", "--format", "tflite"), "--format", "'onnx-int8'"),
        (("compress", "run", "--to", "4bit", "--by", "layers"), "--by", "'rank'"),
        (("predict", "student.kit", "--data", "photos", "--split", "test"), "--split", "'validation'"),
    ],
)
def test_a_word_that_is_not_offered_is_refused_with_those_that_are(words, option, known):
    printed = " ".join(invoke(*words, "--out", "x").output.split())
    assert f"Invalid value for '{option}'" in printed
    assert known in printed


def test_an_unknown_verb_or_option_is_answered_with_the_nearest():
    assert "Did you mean 'plan'?" in invoke("plann").output
    assert "--data" in invoke("run", "record", "--dta", "x").output


def test_a_dry_run_prints_the_config_and_the_students_size():
    printed = invoke("run", "boss", "--dry-run", "--set", "train.epochs=30").output
    assert '"epochs": 30' in printed
    assert "99,891 parameters" in printed
    assert "limit 100,000" in printed


def test_a_dry_run_ends_with_what_differs_from_the_recipe():
    *_, said, lr, seed = invoke("run", "boss", "--dry-run", "--set", "train.lr=0.5", "--set", "train.seed=1").output.splitlines()
    assert said == "boss as it is written, but for"
    assert (lr, seed) == ("train.lr: 0.001 → 0.5", "train.seed: 20220013 → 1")
    *_, workers, trial = invoke("run", "boss", "--dry-run", "--set", "data.workers=1", "--set", "trial=true").output.splitlines()
    assert {workers, trial} == {"data.workers: 0 → 1", "trial: null → true"}
    assert invoke("run", "boss", "--dry-run").output.endswith("boss as it is written\n")


@pytest.mark.parametrize(
    ("words", "what"), [(("run", "boss", "--out", ""), "--out"), (("check", "--data=", "x.csv"), "--data"), (("report", ""), "report")]
)
def test_an_empty_word_as_of_a_variable_that_is_not_set_is_no_working_folder(words, what, tmp_path, refused):
    assert re.search(rf"^error: The (value of|word after) '?{what}'? is empty\. Is a variable", refused(tmp_path, *words))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_counts_the_classes_of_the_photos_or_says_that_it_does_not(coloured, tmp_path):
    data = shutil.copytree(coloured, tmp_path / "photos")
    for photo in (*(data / "training").glob("[2-5]_*"), *(data / "validation").glob("[2-5]_*")):
        photo.unlink()
    sample, limited = ("run", "sample", "--dry-run"), ("run", "record", "--dry-run", "--set", "limit=60000params")
    assert "for 2 classes, limit" in invoke(*sample, "--data", str(data)).output
    assert "for 6 classes (an example: --data tells), limit" in invoke(*sample).output
    assert "for 11 classes, limit 60,000 parameters" in invoke(*limited).output  # another limit leaves the competition's classes
    assert "No data set below" in str(invoke(*sample, "--data", str(data / "training")).exception)


def test_the_students_are_compared_and_solved_for_a_limit():
    printed = invoke("students", "boss", "bottleneck/4", "--image-size", "32", "--parameters", "60000").output
    assert "59,910" in printed
    assert printed.count("64 46 93 186 101") == 1
    assert "bottleneck/4" in printed
    assert "on the CPU with" in printed.replace("\n", " ")
    assert "'hw13' can't be used at 16 px" in str(invoke("students", "hw13", "--image-size", "16").exception)


def test_a_student_of_timm_has_its_row_and_one_that_does_not_fit_says_why():
    assert "timm's" in invoke("students", "timm/resnet10t", "--image-size", "32").output
    printed = " ".join(invoke("students", "--image-size", "32", "--parameters", "1000").output.split())
    assert "No student 'boss' fits into 1,000 parameters" in printed
    assert "hw13" in printed


def test_a_dry_run_names_a_limit_of_bytes_too():
    assert "limit 300,000 bytes" in invoke("run", "hw7", "--dry-run").output
    both = invoke("run", "boss", "--dry-run", "--set", "limit=60000params+250kB").output
    assert "limit 60,000 parameters and 250,000 bytes" in both


def test_a_part_of_what_is_not_there_is_refused_with_the_form_that_sets_the_whole():
    null, short = """prune is null here; set the whole of it: --set 'prune={"keep": …}'.""", "distill has no '9' here; set the whole of it"
    for assignment, says in {"prune.keep=0.6": null, "distill.9.weight=2": short}.items():
        assert says in str(invoke("run", "record", "--dry-run", "--set", assignment).exception)
    assert """where it is null the whole, as JSON with double quotes, --set 'prune={"FIELD": VALUE}'""" in str(
        invoke("run", "record", "--dry-run", "--set", "prune=0.6").exception
    )
    assert '"keep": 0.6' in invoke("run", "record", "--dry-run", "--set", 'prune={"keep": 0.6}').output


def test_a_share_that_is_none_is_refused_by_the_name_of_its_option():
    most, least = "less than or equal to 1", "greater than or equal to 0.001"
    for share, bound in {"5": most, "0": least, "-1": least, "nan": "than or equal to"}.items():
        printed = invoke("run", "record", "--dry-run", "--subset", share).output
        assert "Invalid value for '--subset'" in printed
        assert bound in printed


def test_a_field_given_as_an_option_is_answered_with_its_assignment():
    for words, says in {("--epochs", "3"): "--set train.epochs=3.", ("--batch-size=8",): "--set train.batch_size=8."}.items():
        assert str(invoke("run", "record", *words).exception).endswith(says)


def test_an_assignment_in_two_words_is_answered_with_its_form():
    for words in (("--set", "train.epochs", "30"), ("--set", "train.epochs", "=", "30"), ("--tiny", "--set", "train.epochs")):
        assert "--set train.epochs: write section.field=value in one word" in str(invoke("run", "record", *words).exception)
    assert "requires an argument" in invoke("run", "record", "--set").output


def test_an_empty_budget_is_not_taken_for_none(drawn, tmp_path):
    """As a script gives it whose variable was not set: the session would have had no end."""
    words = ["run", "sample", "--tiny", "--data", str(drawn), "--out", str(tmp_path / "run"), "--budget", ""]
    assert "'' is no duration" in str(invoke(*words).exception)


@pytest.mark.parametrize("option", ["--budget", "--quota"])
def test_a_plan_of_no_time_is_refused_before_anything_is_measured(option, drawn):
    result = invoke("plan", "sample", "--data", str(drawn), option, "0s")
    assert f"{option} 0s" in str(result.exception)
    assert "must both be longer than nothing" in str(result.exception)
    assert "is measured" not in result.output


@pytest.mark.parametrize("epochs", ["abc", "0", ""])
def test_epochs_that_are_no_number_are_refused_by_the_name_of_their_option(epochs, drawn):
    assert f"--epochs {epochs}: give a number" in str(invoke("plan", "sample", "--data", str(drawn), "--epochs", epochs).exception)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["push", "smoke", "--study", "hw13"], "kit push study --study NAME"),
        (["push", "study"], "kit push study --study NAME"),
        (["push", "record", "--arm", "boss"], "kit push study --study NAME"),
        (["pull", "study"], "kit pull study --study NAME"),
        (["push", "study", "--study", "hw31"], "There is no study 'hw31'. Nearest: hw13"),
        (["chain", "study"], "push it again with the same words: kit push study"),
    ],
)
def test_options_of_a_study_are_for_its_kernel(words, says):
    assert says in str(invoke(*words).exception)


def test_a_run_is_begun_with_the_student_that_is_named_and_refused_without_it(drawn, tmp_path):
    places = [f"--{name}={tmp_path / name}" for name in ("out", "cache", "begin")]
    result = invoke("run", "sample", "--tiny", "--data", str(drawn), "--set", 'distill=[{"loss":"ce"}]', *places)
    assert f"{tmp_path / 'begin'} can't be read: No such file" in str(result.exception)
    assert not (tmp_path / "cache").exists()  # before anything is spent


def test_what_stands_between_colons_is_no_picture(capsys):
    Log()("/opt/functional.py:100: UserWarning: a :cat:")
    assert capsys.readouterr().out == "/opt/functional.py:100: UserWarning: a :cat:\n"


def test_doctor_finds_this_machine_fit_and_shows_the_data(drawn, tmp_path):
    result = invoke("doctor", "--data", str(drawn), "--cache", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert re.search(r"training +120 photos", doctor.dataset(drawn)[1])  # the table breaks its lines


def test_doctor_splits_no_word_on_a_narrow_screen(drawn, tmp_path):
    words = {word for line in invoke("doctor", "--cache", str(tmp_path)).output.splitlines() for word in line.split()}
    assert {"saved", "credentials", "~/.kaggle/access_token", "torchvision"} <= words


def test_doctor_counts_photos_that_the_camera_did_not_turn(drawn, tmp_path):
    data, exif = shutil.copytree(drawn, tmp_path / "photos"), Image.Exif()
    exif[doctor.ORIENTATION] = 6
    for name in ("0_0.jpg", "0_1.jpg"):
        Image.new("RGB", (8, 8)).save(data / "training" / name, exif=exif)
    exif[doctor.ORIENTATION] = 1
    Image.new("RGB", (8, 8)).save(data / "training" / "0_2.jpg", exif=exif)
    (data / "training" / "0_3.jpg").write_bytes(b"no photo")
    assert doctor.turned(list((data / "training").iterdir())) == 2
    verdict, found, remedy = doctor.dataset(data)
    assert (verdict, "want to be turned" in found, "as they are stored" in remedy) == ("note", True, True)


def test_doctor_counts_photos_that_are_none(drawn, tmp_path):
    """As a phone's .heic that was only called .jpg."""
    data = shutil.copytree(drawn, tmp_path / "photos")
    assert doctor.dataset(data)[0] == "ok"
    (data / "training" / "0_0.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    verdict, found, remedy = doctor.dataset(data)
    assert (verdict, remedy[:17]) == ("note", "fetch them again,")
    assert found.endswith(f"1 of 102 photos can't be opened, {data / 'training' / '0_0.jpg'} for one"), found


def test_doctor_shows_a_long_path_with_brackets_whole(drawn, tmp_path):
    place = tmp_path / "my [old] photos [/b]" / ("long" * 20)
    place.parent.mkdir(parents=True)
    place.symlink_to(drawn)
    result = invoke("doctor", "--data", str(place), "--cache", str(tmp_path))
    assert result.exit_code == 0, result.output
    shown = "".join(line.split("│")[2] for line in result.output.splitlines() if line.count("│") == 2).replace(" ", "")
    assert f"/my[old]photos[/b]/{'long' * 20}training" in shown


def test_doctor_names_each_library_that_the_kit_imports_and_is_not_there(monkeypatch):
    assert doctor.libraries()[0] == "ok"
    assert {"torch", "PIL", "safetensors", "jinja2", "torch_pruning", "kaggle"} <= doctor.imported()
    assert "triton" not in doctor.imported()  # torch brings it on Linux alone, and only a GPU is asked for it
    monkeypatch.setitem(sys.modules, "safetensors", None)  # as if it were not installed
    assert doctor.libraries()[:2] == ("broken", "missing: safetensors")


def test_doctor_takes_the_few_photos_that_a_new_recipe_can_be_drafted_for(drawn, tmp_path):
    """A fifth of three photos a class can't be held out; `kit new` holds out more."""
    for photo in sorted((drawn / "training").iterdir()):
        label, number = photo.stem.split("_")
        if int(label) < 3 and int(number) < 3:
            (place := tmp_path / "few" / "train" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, place)
    shutil.copytree(drawn / "evaluation", tmp_path / "few" / "test")
    assert doctor.dataset(tmp_path / "few")[0] == "ok"


def test_doctor_fails_for_a_folder_without_photos(tmp_path):
    assert invoke("doctor", "--data", str(tmp_path), "--cache", str(tmp_path)).exit_code == 1


@pytest.mark.parametrize(("given", "spins"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "none")])
def test_threads_that_wait_soon_sleep_unless_the_user_has_said_otherwise(given, spins):
    """Beside another busy process a step took ten times as long; torch reads it when it is loaded."""
    tell = "import atexit, os, sys; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT', 'none'), 'torch' in sys.modules)); "
    around = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | given
    words = [sys.executable, "-c", tell + "from kit.cli.main import main; sys.argv = ['kit', '--version']; main()"]
    assert subprocess.run(words, env=around, **CAPTURED).stdout.splitlines()[-1] == f"{spins} False"


def test_doctor_sees_that_a_cache_can_not_lie_in_a_file(tmp_path):
    (tmp_path / "file").touch()
    assert doctor.disk(tmp_path / "file" / "cache")[:2] == ("broken", f"{tmp_path / 'file'} is no folder")


def test_a_strangers_weights_are_brought_into_hw7s_format_and_inspected(tmp_path):
    torch.save({"fc.weight": torch.randn(11, 5), "fc.bias": torch.zeros(11)}, tmp_path / "w.ckpt")
    printed = invoke("export", str(tmp_path / "w.ckpt"), "--format", "hw7-8bit", "--out", str(tmp_path / "w.pkl")).output
    assert "hw7-8bit, 2 tensors" in printed
    printed = invoke("inspect", str(tmp_path / "w.pkl")).output
    assert "11×5" in printed
    assert "HW7 pickle, 8 bit, unknown network, 66 parameters" in printed.replace("\n", " ")


def test_no_verb_writes_over_what_it_reads_nor_over_a_run(drawn, tmp_path):
    student = build_student("record", (), 6).eval()
    pack(tmp_path / "student.kit", student, recipe("sample"), widths_of(student), tuple("012345"), {})
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "report.html").touch()
    (tmp_path / "again.kit").hardlink_to(tmp_path / "student.kit")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for out in before:
        for words in (("predict", "--data", drawn), ("export", "--format", "ckpt"), ("compress", "--to", "4bit"), ("report",)):
            refusal = invoke(words[0], str(tmp_path / "student.kit"), *map(str, words[1:]), "--out", str(out)).exception
            assert isinstance(refusal, KitError), words
            assert str(refusal).startswith(f"{out} is "), refusal
            assert str(refusal).endswith("Give --out another name."), refusal
    assert before == {file: file.read_bytes() for file in tmp_path.iterdir()}


def test_ctrl_c_is_answered_in_words_while_the_command_is_loaded():
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [sys.executable, "-X", "importtime", "-m", "kit", "--help"]  # says each import when it is done
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while " kit.config" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert said == ["error: stopped by Ctrl-C"]
    assert process.returncode in (STOPPED, -signal.SIGINT)  # the latter where Python was in an exec, as of a dataclass: a shell's 130, too


def test_ctrl_c_is_answered_in_words(tmp_path):
    photos = tmp_path / "photos"
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a test's worker may pass over, and what it starts with it
    process = subprocess.Popen(
        [sys.executable, "-m", "kit", "sample", str(photos)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )
    while not list(photos.rglob("*.jpg")):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "error: stopped by Ctrl-C\n")
