"""The main job as a user starts it: the real command in a process of its own, on drawn photos, killed and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
import torchvision
from conftest import left_running

from kit.compress.pack import unpack
from kit.config.override import override
from kit.config.recipes import recipe as recipe_of
from kit.pipeline import run as run_session
from kit.submission import read_csv
from kit.train.budget import Budget
from kit.train.checkpoint import saved_in

TINY = ["--tiny", "--set", "competition=any"]


@pytest.fixture
def place(drawn, tmp_path):
    """photos/, a teacher that knows nothing, and room for runs."""
    shutil.copytree(drawn, tmp_path / "photos")
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=6).state_dict(), tmp_path / "teacher.pt")
    return tmp_path


def begun(*words, out="out"):
    return ["run", *words, "--data", "photos", "--out", out, "--cache", "cache"]


def in_a_process(*words, out="out"):
    return [sys.executable, "-m", "kit", *begun(*words, out=out)]


@pytest.fixture
def run(command):
    """A whole session in this process; returns what it printed."""
    return lambda place, *words, out="out": "".join(command(place, *begun(*words, out=out)))


def a_session(place, *words, out="out", expect=0):
    """One in a process of its own, whose time is counted from its start; returns what it printed."""
    done = subprocess.run(in_a_process(*words, out=out), cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def suspended_in(stage, place, capsys, recipe, *settings):
    """What a run says whose session ends after an epoch of this stage, as one does whose time is over."""
    config = override(recipe_of(recipe).tiny(), ["competition=any", *settings])

    def over(now, history):
        return "the time is over" if now == stage and history else None

    run_session(config, place / "photos", place / "out", cache=place / "cache", budget=Budget(None), watch=over)
    assert record_of(place)["state"] == "suspended"
    return capsys.readouterr().out


def record_of(place, out="out"):
    return json.loads((place / out / "run.json").read_text())


def results(place, out):
    """What must repeat bit for bit: the files that are handed in, and of every stage the result's name, which is its sha256."""
    files = {name: (place / out / name).read_bytes() for name in ("student.kit", "submission.csv", "metrics.jsonl")}
    return files | {"stages": sorted(saved.path.name for saved in saved_in(place / out) if saved.done)}


@pytest.mark.parametrize("recipe", ["sample", "simple", "boss", "record"])
def test_every_recipe_runs_from_photos_to_a_checked_csv(run, place, recipe):
    run(place, recipe, *TINY)
    record, out = record_of(place), place / "out"
    assert record["state"] == "done"
    assert {p.name for p in out.iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "timing.jsonl",
        "checkpoints",
        "student.kit",
        "submission.csv",
        "validation.npz",
        "report.html",
        "provenance.json",
        "log.txt",
        *(["teacher.ckpt"] if recipe != "simple" else []),  # labels alone ask no teacher
    }
    assert list(read_csv(out / "submission.csv")["Id"]) == [f"{i:04d}" for i in range(24)]
    assert unpack(out / "student.kit").parameters == record["parameters"]
    assert record["stages"]["quantize"]["accuracy"] == record["validation_accuracy"]
    assert 0 <= record["validation_macro_f1"] <= 1
    packing = record["stages"]["quantize"]["packing"]
    assert packing["before"] == pytest.approx(record["stages"]["distil" if recipe != "sample" else "finetune"]["accuracy"])
    assert packing["equal"] > 0.9


@pytest.mark.slow
def test_pruning_in_steps_narrows_the_student_again_and_again_and_is_resumed(run, place):
    """And trained at last on the grid of its four bits."""
    words = ["sample", *TINY, "--set", "prune.steps=2", "--set", "prune.criterion=taylor", "--set", "prune.parameters=30000"]
    words += ["--set", "quantize.train_epochs=1", "--set", "pack.bits=4"]
    run(place, *words, out="straight")
    stages = record_of(place, "straight")["stages"]
    parameters = [stages[stage]["parameters"] for stage in ("distil", "prune1", "finetune1", "prune", "finetune", "qat", "quantize")]
    assert parameters == sorted(parameters, reverse=True)
    assert 41_500 < parameters[1] <= (58_846 * 30_000) ** 0.5
    assert 29_500 < parameters[-1] <= 30_000
    assert (place / "straight" / "student.kit").stat().st_size < 20_000
    candidates = stages["quantize"]["candidates"]
    assert list(candidates) == ["training", "qat"]
    assert candidates[stages["quantize"]["chosen"]] == max(candidates.values()) == stages["quantize"]["accuracy"]
    names = ["distilled", "pruned, step 1", "fine-tuned, step 1", "pruned, step 2", "fine-tuned, step 2", "trained quantized"]
    page = (place / "straight" / "report.html").read_text().partition('<section id="stages"')[2]
    assert sorted(names, key=page.index) == names
    shutil.copytree(place / "straight", place / "cut")
    for saved in saved_in(place / "cut"):
        if saved.stage == "prune" or (saved.stage in ("finetune", "qat") and saved.done):
            saved.path.unlink()
    run(place, *words, out="cut")
    assert results(place, "cut") == results(place, "straight")


@pytest.mark.timed
def test_a_short_budget_suspends_with_a_provisional_csv_and_goes_on(place, paced):
    words = ["record", *TINY, "--set", "train.epochs=2000", "--set", "trial=null"]
    budget, start = paced(20), time.time()
    printed = a_session(place, *words, "--budget", f"{budget}s")
    assert 0.8 * budget <= time.time() - start < budget
    record = record_of(place)
    assert record["state"] == "suspended"
    session = record["sessions"][-1]
    assert session["seconds"] < budget
    assert session["epochs_left"] + session["epochs"]["distil"] in (2000, 2001)  # the epoch that has begun counts on both sides
    assert session["sessions_needed"] >= 1
    assert "more sessions of this length" in printed
    assert "24 rows, provisional" in printed or "24 rows, can't be submitted" in printed  # so early it may give one class to all
    assert len(read_csv(place / "out" / "submission.csv")) == 24
    before = len((place / "out" / "metrics.jsonl").read_text().splitlines())
    assert "distil: going on from step" in a_session(place, *words, "--budget", f"{paced(12)}s")
    assert len((place / "out" / "metrics.jsonl").read_text().splitlines()) > before


@pytest.mark.slow
def test_layers_become_thinner_are_trained_so_and_packed_on_grids(run, place):
    words = ["sample", *TINY, "--set", "prune=null", "--set", 'lowrank={"parameters": 45000, "train_epochs": 1}']
    words += ["--set", "quantize.train_epochs=1", "--set", "pack.bits=4"]
    run(place, *words, out="straight")
    record = record_of(place, "straight")
    packed = unpack(place / "straight" / "student.kit")
    assert packed.ranks
    assert 43_000 < packed.parameters <= 45_000
    assert record["parameters"] == packed.parameters
    assert "at low rank" in (place / "straight" / "report.html").read_text()
    shutil.copytree(place / "straight", place / "cut")
    for saved in saved_in(place / "cut"):
        if saved.stage in ("lowrank", "qat") and saved.done:
            saved.path.unlink()
    run(place, *words, out="cut")
    assert results(place, "cut") == results(place, "straight")


@pytest.mark.slow
def test_a_session_that_ends_in_training_on_the_grid_hands_in_what_packing_leaves_the_best(place, capsys):
    printed = suspended_in("qat", place, capsys, "sample", "prune=null", "quantize.train_epochs=2", "pack.bits=3")
    record = record_of(place)
    assert "packed after qat it would have" in printed
    assert record["validation_accuracy"] == max(record["stages"]["quantize"]["candidates"].values())


def test_a_session_that_only_trained_the_teacher_is_suspended_and_no_error(place, capsys):
    assert "no submission yet" in suspended_in("teacher", place, capsys, "sample")
    assert list((place / "out" / "checkpoints").glob("teacher-*.pt"))


def test_a_teacher_that_learns_from_labels_alone_is_shown_no_photo_without_one(place, capsys):
    """It learns what it learns where there are no such photos, bit for bit, and an epoch is as long."""
    shutil.copytree(place / "photos" / "evaluation", place / "photos" / "unlabelled")
    losses = []
    for more in ("data.unlabelled=true", "data.unlabelled=false"):
        printed = suspended_in("teacher", place, capsys, "sample", 'distill=[{"loss": "ce"}, {"loss": "kd"}]', more)
        assert "epochs done: teacher 1," in printed
        losses.append((place / "out" / "metrics.jsonl").read_text().partition('"loss": ')[2].split(",")[0])
        shutil.rmtree(place / "out")
    assert losses[0] == losses[1] != ""


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["decoded 120 training", "distil 2/"])
def test_a_signal_to_the_whole_process_group_saves_and_says_suspended(place, asked, when):
    """With decoding workers at work, which must neither die of it nor outlive the run."""
    words = [*TINY, "--set", "train.epochs=500", "--set", "data.feed=decode" if when == "distil 2/" else "data.feed=cache"]
    process = subprocess.Popen(
        in_a_process("record", *words, "--set", "data.workers=2"),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith(when):
            os.killpg(process.pid, asked)
            break
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 75, rest
    assert f"{asked.name} came" in rest
    assert "Traceback" not in rest
    assert record_of(place)["state"] == "suspended"
    assert not left_running(lambda entry: process_group(entry) == process.pid)
    assert when != "distil 2/" or any(saved.stage == "distil" for saved in saved_in(place / "out"))


@pytest.mark.slow
def test_a_suspended_run_whose_student_is_too_wide_hands_in_a_pruned_copy(place, capsys):
    words = ["student.name=hw7", "limit=hw13-2023", 'prune={"keep": 0.2}', 'distill=[{"loss": "kd"}]']
    printed = suspended_in("distil", place, capsys, "record", *words)
    record = record_of(place)
    assert 50_000 < record["parameters"] <= 60_000
    assert "a copy was pruned to" in printed
    assert record["over_the_limit"] == []
    newest = [saved for saved in saved_in(place / "out") if saved.stage == "distil"][-1]
    assert count_parameters_in(newest.path) == 256_779 - 11 * 257 + 6 * 257  # the run itself goes on with the wide one


@pytest.mark.slow
def test_a_suspended_run_whose_layers_will_be_thinner_hands_in_thin_ones(place, capsys):
    words = ["student.name=hw7", "limit=hw13-2023", "lowrank={}", 'distill=[{"loss": "kd"}]']
    printed = suspended_in("distil", place, capsys, "record", *words)
    record = record_of(place)
    assert record["over_the_limit"] == []
    assert 50_000 < record["parameters"] <= 60_000
    assert "a copy's layers were made thinner" in printed


def process_group(entry):
    """Of a process that is not merely waiting to be reaped."""
    fields = (entry / "stat").read_text().rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[2])


def count_parameters_in(checkpoint):
    weights = torch.load(checkpoint, weights_only=True)["state"]["network"]
    return sum(tensor.numel() for name, tensor in weights.items() if "running" not in name and "num_batches" not in name)


@pytest.mark.slow
def test_another_number_of_threads_or_workers_changes_nothing(place):
    """The first session's choice is kept: sums are split by threads, and their last bits with them."""
    words = ["simple", *TINY, "--set", "train.save_seconds=0"]
    two, one = (os.environ | {"OMP_NUM_THREADS": threads} for threads in "21")
    subprocess.run(in_a_process(*words, out="straight"), cwd=place, env=two, check=True, capture_output=True)
    process = subprocess.Popen(in_a_process(*words, out="moved"), cwd=place, env=two, stdout=subprocess.PIPE, text=True)
    while "distil 1/" not in process.stdout.readline():
        pass
    process.kill()
    process.communicate()
    other = ["--set", "data.workers=1", "--set", "train.save_seconds=7"]
    subprocess.run(in_a_process(*words, *other, out="moved"), cwd=place, env=one, check=True, capture_output=True)
    assert results(place, "moved") == results(place, "straight")
    assert record_of(place, "moved")["choices"] == record_of(place, "straight")["choices"]


@pytest.mark.slow
def test_a_run_goes_on_from_an_attached_output_in_another_folder(run, place, refusal):
    words = ["simple", *TINY]
    run(place, *words, out="straight")
    (place / "attached").mkdir()
    shutil.move(place / "straight", place / "attached" / "kit-simple")
    printed = run(place, *words, "--resume-from", "attached", "--least-step", "14", out="moved")
    assert "going on from attached/kit-simple, step" in printed
    assert "distil 1/2" not in printed
    assert results(place, "moved") == results(place / "attached", "kit-simple")
    assert "step 999 was to be found" in refusal(place, *words, "--resume-from", "attached", "--least-step", "999", out="third")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["teacher.ckpt", "the stage's result"])
def test_a_trained_teacher_outlives_the_loss_of_either_of_its_files(run, place, lost):
    words = ["medium", *TINY]
    run(place, *words)
    before = results(place, "out")
    saved = next(saved.path for saved in saved_in(place / "out") if saved.stage == "teacher")
    damaged = place / "out" / "teacher.ckpt" if lost == "teacher.ckpt" else saved
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "teacher 1/2" not in run(place, *words)
    assert results(place, "out") == before


@pytest.mark.slow
def test_two_runs_in_one_folder_do_not_meet_and_a_killed_ones_workers_hold_nothing(place, refusal):
    words = ["record", *TINY, "--set", "train.epochs=2000", "--set", "data.feed=decode", "--set", "data.workers=2"]
    begin = partial(subprocess.Popen, in_a_process(*words), cwd=place, stdout=subprocess.PIPE, text=True)
    with begin() as first:
        assert any("distil 1/" in line for line in first.stdout)
        assert f"out is in use by process {first.pid}" in refusal(place, *words)
        first.kill()
        with begin() as second:  # while the first one's workers may still be ending
            assert any("going on from step" in line for line in second.stdout)
            second.kill()


@pytest.mark.slow
@pytest.mark.parametrize("interval", ["0", "60"])
def test_a_folder_that_vanishes_is_named_and_what_was_saved_is_still_good(run, place, interval):
    words = ["simple", *TINY, "--set", f"train.save_seconds={interval}", "--set", "train.epochs=12"]
    process = subprocess.Popen(in_a_process(*words), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while "distil 1/" not in process.stdout.readline():
        pass
    (place / "out").rename(place / "away")
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 1, rest
    assert "Traceback" not in rest
    assert "The folder or its mount has vanished" in rest
    (place / "away").rename(place / "out")
    run(place, *words)
    assert record_of(place)["state"] == "done"


def test_a_finished_run_is_not_run_again(run, place):
    run(place, "simple", *TINY)
    before = results(place, "out")
    printed = run(place, "simple", *TINY)
    assert "distil 1/2" not in printed
    assert results(place, "out") == before


def test_a_try_on_a_subset_or_tiny_is_not_handed_in(run, place, refused):
    (place / "kit").mkdir()
    (place / "submissions").mkdir()
    words = ["simple", "--tiny", "--set", "competition=60000params", "--subset", "0.5"]
    printed = run(place, *words)
    assert record_of(place)["partial"]
    assert "a try (--subset and --tiny), can't be submitted" in printed
    assert not list((place / "submissions").iterdir())
    for how in (["check", "out"], ["check", "out", "--competition", "any"], ["submit", "out", "--competition", "hw13-2023", "--dry-run"]):
        assert "it was made with --subset and --tiny" in refused(place, *how, "--data", "photos")
    assert "a try (--subset), can't be submitted" in run(place, *words, "--set", "trial=null")
    assert len(read_csv(place / "out" / "submission.csv")) == 12


@pytest.mark.slow
def test_the_loader_without_a_cache_runs_too(run, place):
    run(place, "boss", *TINY, "--set", "data.feed=decode", "--set", "data.workers=2")
    assert not list((place / "cache").glob("training*"))
    assert record_of(place)["state"] == "done"


@pytest.mark.slow
def test_a_final_fit_on_all_photos_with_every_option_claims_no_validation_figure(run, place):
    shutil.copytree(place / "photos" / "evaluation", place / "photos" / "unlabelled")
    settings = ["student.name=branched", "student.parameters=20000", 'distill=[{"loss": "kd"}, {"loss": "ce"}]', "data.unlabelled=true"]
    settings += ["data.augment.mixup=0.2", "data.augment.cutmix=1", "predict.crops=5"]
    settings += [
        f"train.{s}" for s in ("final_fit=true", "balanced=true", "optimizer=muon", "sam_rho=0.05", "ema_decay=null", "swa_from=0")
    ]
    printed = run(place, "record", *TINY, *[word for setting in settings for word in ("--set", setting)])
    record = record_of(place)
    assert (record["validation_accuracy"], record["stages"]["distil"]["accuracy"]) == (None, None)
    assert "final_fit" in record["no_validation"]
    assert 19_900 < record["parameters"] <= 20_000
    assert "204 photos" in printed  # 120 + 60 + 24
    assert "done: no validation accuracy" in printed
    lines = [json.loads(line) for line in (place / "out" / "metrics.jsonl").read_text().splitlines()]
    assert not any("accuracy" in line for line in lines)
    page = (place / "out" / "report.html").read_text()
    assert "No accuracy is claimed" in page
    assert "The loss term kd over the epochs" in page


def test_an_unlabelled_split_that_is_not_there_is_named(place, refusal):
    words = ["--set", "data.unlabelled=true", "--set", 'distill=[{"loss": "kd"}]']
    assert "no folder unlabelled/" in refusal(place, "simple", *TINY, *words)


def test_a_bad_evaluation_photo_keeps_its_row_and_is_called_a_guess(run, place):
    (place / "photos" / "evaluation" / "0007.jpg").write_bytes(b"\xff\xd8 nothing")
    printed = run(place, "simple", *TINY)
    assert "1 row is a guess" in printed
    assert record_of(place)["submission"]["guessed_ids"] == ["0007"]
    assert len(read_csv(place / "out" / "submission.csv")) == 24


def test_predict_repeats_the_runs_csv_and_scores_labelled_splits(command, run, place):
    run(place, "simple", *TINY)
    command(place, "predict", "out/student.kit", "--data", "photos", "--out", "again.csv", "--cache", "cache")
    assert (place / "again.csv").read_bytes() == (place / "out" / "submission.csv").read_bytes()
    printed, _ = command(
        place, "predict", "out/student.kit", "--data", "photos", "--out", "v.csv", "--split", "validation", "--cache", "cache"
    )
    assert f"accuracy {record_of(place)['validation_accuracy']:.4f}, macro-F1" in printed
    assert "macro avg" in printed


# ── refusals: one paragraph, exit code 1, no traceback, nothing earlier lost ────────────────────────────────────────────────────


@pytest.fixture
def refusal(refused):
    return lambda place, *words, out="out": refused(place, *begun(*words, out=out))


@pytest.mark.slow
def test_another_recipe_in_the_same_folder_is_refused_and_nothing_is_lost(run, place, refusal):
    run(place, "simple", *TINY)
    before = results(place, "out")
    assert "recipe: simple-tiny → medium-tiny" in refusal(place, "medium", *TINY)
    assert "train.lr" in refusal(place, "simple", *TINY, "--set", "train.lr=0.5")
    assert results(place, "out") == before


def test_other_photos_under_the_same_run_are_refused(run, place, refusal):
    run(place, "simple", *TINY)
    (place / "photos" / "training" / "0_0.jpg").unlink()
    assert "are not those that the run" in refusal(place, "simple", *TINY)


def test_a_teacher_with_ten_outputs_is_refused(place, refusal):
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), place / "ten.pt")
    assert "has 10 outputs, the data has 6 classes" in refusal(place, "simple", *TINY, "--teacher", "ten.pt")


def test_a_teacher_that_knows_nothing_is_refused_before_the_first_step(place, refusal):
    assert "hardly better than chance" in refusal(place, "simple", *TINY, "--teacher", "teacher.pt")


@pytest.mark.slow
def test_a_run_whose_teacher_is_missing_is_refused_and_trains_no_other(run, place, refusal):
    """Here its own, of which nothing is left: a teacher that knows something takes longer to train."""
    run(place, "medium", *TINY)
    out = place / "out"
    for file in (out / "teacher.ckpt", out / "metrics.jsonl", *(saved.path for saved in saved_in(out) if saved.stage == "teacher")):
        file.unlink()
    there = sorted(out.rglob("*.pt"))
    assert "that it did not train, and none is there now: name it by --teacher" in refusal(place, "medium", *TINY)
    assert sorted(out.rglob("*.pt")) == there
    assert not (out / "teacher.ckpt").exists()


def test_a_student_over_the_limit_is_refused_at_once(place, refusal):
    words = ["simple", "--set", "student.name=hw7"]
    assert "256,779 parameters are over hw13-2023's limit of 60,000" in refusal(place, *words)
    assert not (place / "cache").exists()


def test_a_budget_that_is_over_before_training_says_so(place):
    """It counts from the process's start."""
    printed = a_session(place, "simple", *TINY, "--budget", "3s", expect=1)
    assert "the budget of 3 s" in printed.lower()
    assert "larger --budget" in printed
    assert "goes on from here" not in printed + (place / "out" / "log.txt").read_text()


def test_missing_data_and_missing_teachers_are_named(place, refused, refusal):
    assert "needs --data" in refused(place, "run", "simple")
    assert "no teacher file" in refusal(place, "simple", *TINY, "--teacher", "nowhere.pt")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a file's size as Linux does")
def test_a_disk_that_fills_up_ends_in_one_paragraph_and_the_run_goes_on_when_there_is_room(run, place):
    """RLIMIT_FSIZE stands in for a full disk: the teacher's first checkpoint does not fit, and no hour was spent on it."""
    words = ["medium", *TINY]
    limited = ["bash", "-c", 'ulimit -f 1000; trap "" XFSZ; exec "$@"', "-", *in_a_process(*words)]
    done = subprocess.run(limited, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "can't be written (File too large)" in done.stderr
    run(place, *words)
    assert record_of(place)["state"] == "done"
