"""A compiled step learns what the step learns, in other last bits; and a compiled run that was killed ends as one that was not."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch._inductor.config as inductor
from functorch.compile import make_boxed_func
from torch import nn
from torch._inductor.custom_graph_pass import CustomGraphPass

from kit.compress.fold import fold_in_place
from kit.config.schema import Train
from kit.config.terms import CE, KD, Hint
from kit.distill.objective import Objective
from kit.errors import KitError
from kit.fuse import fused, with_compile_decided
from kit.models.look import hooked
from kit.models.quick import Stem
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.world import World

TERMS = (KD(temperature=4), CE(weight=0.5, ramp="second half"), Hint(student="blocks.1", teacher="layer2"))


def learner(fuse):
    torch.manual_seed(0)
    student = build_student("record", (), 6).train()
    teacher = build_teacher("torchvision/resnet18", 6).eval().requires_grad_(False)
    return student, Objective(student, teacher, TERMS, 32, fuse=fused if fuse else None)


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


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_named(drawn, tmp_path):
    done = subprocess.run(**command(drawn, tmp_path, "out", "cache", CXX="/nowhere/g++"), capture_output=True)
    assert done.returncode == 1
    assert "train.compile: torch can't compile the step here (InvalidCxxCompiler: " in done.stderr
    assert "--set train.compile=false" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_torch_that_chooses_kernels_by_timing_them_compiles_nothing(monkeypatch):
    said, before = [], inductor.deterministic
    monkeypatch.delattr(inductor, "deterministic")
    assert fused(torch.sin, said.append) is torch.sin
    assert said == [f"torch {torch.__version__} can't be told to choose kernels by rule: steps are taken kernel by kernel"]
    with pytest.raises(KitError, match=r"--set train\.compile=false"):
        fused(torch.sin)
    monkeypatch.undo()
    assert inductor.deterministic == before


def test_a_plan_that_says_nothing_is_compiled_on_a_gpu_where_it_is_long():
    """The rule alone: what it decides runs where there is a card."""
    card, short, long = torch.device("cuda"), Train(epochs=10), Train(epochs=600)
    assert with_compile_decided(long, 10_000, 224, card, World()).compile
    assert not with_compile_decided(short, 10_000, 96, card, World()).compile
    assert not with_compile_decided(long, 10_000, 224, torch.device("cpu"), World()).compile
    assert not with_compile_decided(long, 10_000, 224, card, World(rank=0, size=2)).compile
    assert with_compile_decided(Train(epochs=1, compile=True), 10, 32, torch.device("cpu"), World()).compile
    assert not with_compile_decided(Train(epochs=600, compile=False), 10_000, 224, card, World()).compile


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, where it traces
def test_a_stem_that_is_the_teachers_is_computed_once_in_a_compiled_step():
    """Counted in the graph that Inductor would be given: teacher and student are one, and what both begin with is in it once."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    student = build_student("boss", (), 6).train()
    teacher = build_teacher("torchvision/resnet18", 6).eval().requires_grad_(False)
    student.stem.copy_from(teacher)
    assert student.stem.is_of(teacher)
    looking = fold_in_place(copy.deepcopy(teacher)).to(torch.bfloat16)
    looking.conv1 = Stem(looking.conv1)
    looking.relu = looking.maxpool = nn.Identity()
    graphs = []

    def keep(graph, given):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def pools(same):
        student.stem.same = same
        torch._dynamo.reset()
        compiler = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
        objective = Objective(student, looking, TERMS[:1], 32, fuse=lambda f: torch.compile(f, backend=compiler, dynamic=False))
        graphs.clear()
        with torch.autocast("cpu", torch.bfloat16), hooked(objective.handles):
            total, _ = objective(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), 0.0)
        total.backward()
        assert len(graphs) == 2  # forward and backward, with no break between the two networks
        return sum("max_pool" in str(node.target) for node in graphs[0].graph.nodes)

    assert pools(()) == 2
    assert pools((looking.conv1,)) == 1
    student.stem.same = ()
    student.stem[0].weight.data += 1
    assert not student.stem.is_of(teacher)


class NoBackward(CustomGraphPass):
    def __call__(self, graph):
        if any("tangents" in node.name for node in graph.nodes):
            raise RuntimeError("no backward here")

    def uuid(self):
        return None


@pytest.mark.filterwarnings("ignore")  # torch's own, where it compiles
def test_what_cannot_be_compiled_is_known_before_backward_and_an_error_of_the_steps_own_is_its_own():
    said, asked, x, w = [], [], torch.ones(8, 8), torch.eye(8, requires_grad=True)

    @torch.compiler.disable
    def recall(images):
        asked.append(images)
        raise KitError("the store is gone")

    with pytest.raises(KitError, match="the store is gone"):
        fused(recall, said.append)(x)
    assert (len(asked), said) == (1, [])
    with inductor.patch(post_grad_custom_post_pass=NoBackward(), force_disable_caches=True):
        fused(lambda x: x @ w, said.append)(x).sum().backward()
        with pytest.raises(KitError, match="no backward here"):
            fused(lambda x: x @ w)(x)
    assert len(said) == 1
    assert w.grad.eq(8).all()


def test_steps_of_several_processes_are_not_compiled():
    asked, cpu = Train(epochs=1, compile=True), torch.device("cpu")
    assert with_compile_decided(asked, 10, 32, cpu, World()).compile
    assert not with_compile_decided(asked, 10, 32, cpu, World(rank=0, size=2)).compile
    assert not with_compile_decided(Train(epochs=1), 10, 32, cpu, World()).compile
