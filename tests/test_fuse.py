"""A compiled step learns what the step learns, in other last bits; and a compiled run that was killed ends as one that was not."""

import os
import subprocess
import sys

import pytest
import torch

from kit.augment.views import show_views, training_views
from kit.config.schema import Augment, Data, Train
from kit.config.terms import CE, KD, Hint
from kit.distill.objective import Objective
from kit.fuse import fused, is_fused
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.world import World

TERMS = (KD(temperature=4), CE(weight=0.5, ramp="second half"), Hint(student="blocks.1", teacher="layer2"))


def learner(fuse):
    torch.manual_seed(0)
    student = build_student("record", (), 6).train()
    teacher = build_teacher("torchvision/resnet18", 6).eval().requires_grad_(False)
    return student, Objective(student, teacher, TERMS, 32, fuse=fuse)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, where it compiles
def test_a_compiled_step_learns_the_same_before_and_after_a_term_begins():
    (student, objective), (fused_student, fused_objective) = learner(False), learner(True)
    for step, progress in enumerate((0.25, 0.25, 0.5, 0.75)):
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(6, (8,), generator=generator)
        total, values = objective(images, labels, progress)
        fused_total, fused_values = fused_objective(images, labels, progress)
        torch.testing.assert_close(fused_values, values, rtol=1e-3, atol=1e-5)
        total.backward()
        fused_total.backward()
        assert (fused_values["ce"] > 0) == (progress >= 0.5)
    for (name, ours), (_, theirs) in zip(student.named_parameters(), fused_student.named_parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-2, atol=1e-3 * ours.grad.abs().max().item(), msg=name)
    for ours, theirs in zip(student.buffers(), fused_student.buffers(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, where it compiles
def test_compiled_views_are_those_of_the_kit():
    """Only a GPU's are compiled, where one kernel makes them; what it computes can be seen anywhere."""
    generator = torch.Generator().manual_seed(0)
    pixels, sizes = torch.randint(256, (2, 48, 48, 3), dtype=torch.uint8, generator=generator), torch.tensor([[60, 48], [40, 48]])
    augment = Augment(crop_scale=(0.5, 1), rotate=30, affine_rotate=20, brightness=0.2, contrast=0.2, saturation=0.2)

    def views(show):
        return training_views(pixels, sizes, torch.Generator().manual_seed(1), Data(image_size=32), augment, show=show)

    made = views(fused(show_views))
    assert made.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made, views(show_views), rtol=0, atol=1e-3)


def command(drawn, tmp_path, out, cache, **environment):
    words = ["run", "simple", "--tiny", "--set", "competition=any", "--set", "train.compile=true", "--set", "train.save_seconds=0"]
    paths = ["--data", str(drawn), "--out", out, "--cache", "cache"]
    own = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}  # nothing of another session's compilation
    return {"args": [sys.executable, "-m", "kit", *words, *paths], "cwd": tmp_path, "text": True, "env": os.environ | own | environment}


@pytest.mark.long
def test_a_compiled_run_that_was_killed_gives_the_bits_of_one_that_was_not(drawn, tmp_path):
    subprocess.run(**command(drawn, tmp_path, "straight", "first"), check=True, capture_output=True)
    process = subprocess.Popen(**command(drawn, tmp_path, "killed", "second"), stdout=subprocess.PIPE)
    while "distil 1/" not in process.stdout.readline():
        pass
    process.kill()
    process.communicate()
    done = subprocess.run(**command(drawn, tmp_path, "killed", "third"), check=True, capture_output=True)
    assert "going on from step" in done.stdout
    assert "compile" in done.stdout.partition("session 2: ")[2]
    for name in ("student.kit", "metrics.jsonl", "submission.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_machine_without_a_compiler_is_named(drawn, tmp_path):
    done = subprocess.run(**command(drawn, tmp_path, "out", "cache", CXX="/nowhere/g++"), capture_output=True)
    assert done.returncode == 1
    assert "train.compile: torch can't compile the step here (InvalidCxxCompiler: " in done.stderr
    assert "--set train.compile=null" in done.stderr
    assert "Traceback" not in done.stderr


def test_steps_of_several_processes_are_not_compiled():
    assert is_fused(Train(epochs=1, compile=True), World())
    assert not is_fused(Train(epochs=1, compile=True), World(rank=0, size=2))
    assert not is_fused(Train(epochs=1), World())
    assert Train(epochs=1, compile=False) == Train(epochs=1)
