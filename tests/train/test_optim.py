"""Momentum is there from the first step on: torch's fused SGD would leave it unwritten, or refuse what comes later. Muon may be missing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kit.config.schema import Train
from kit.config.terms import CE, Hint
from kit.device import Device
from kit.distill.objective import Objective
from kit.errors import KitError
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.train import optim
from kit.train.gradients import Backward
from kit.train.loop import take_step
from kit.train.state import begin
from kit.world import World

CPU = Device(torch.device("cpu"), torch.float32, None, False, "cpu", "cpu")
SGD = Train(epochs=2, optimizer="sgd", lr=1e-3)


def train(terms, steps, device=CPU, wrap=lambda loss, state: loss):
    torch.manual_seed(0)
    student, teacher = build_student("even", (), 5), build_teacher("torchvision/resnet18", 5).eval().requires_grad_(False)
    objective = Objective(student, teacher, terms, 32)
    state = begin(student, objective.adapters, SGD, 2, device)
    learn, draw = Backward(wrap(objective, state), state.optimizer, state.scaler, device), torch.Generator().manual_seed(0)
    for _ in range(steps):
        take_step(state, learn, lambda step: (torch.randn(4, 3, 32, 32, generator=draw), torch.arange(4)), World())
    return state


@pytest.fixture
def unwritten_is_no_number():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_first_step_that_overflows_leaves_no_trace(unwritten_is_no_number):
    """float16 begins with a factor of 65,536, for which the first gradients are often too large."""

    def overflowing(loss, state):
        def total(images, labels, progress):
            value, values = loss(images, labels, progress)
            return value * (float("inf") if state.step == 0 else 1), values

        return total

    state = train((CE(),), 2, replace(CPU, scaled=True), overflowing)
    assert state.scaler.get_scale() == 32_768
    assert all(p.isfinite().all() for p in state.network.parameters())


def test_an_average_keeps_less_of_itself_in_the_first_steps():
    average = begin(build_student("even", (), 5), torch.nn.Module(), Train(epochs=2, ema_decay=0.998), 2, CPU).ema
    assert all(average.get_decay(step) == pytest.approx(1 - step ** (-2 / 3)) for step in (1, 2, 780, 11_180))
    reached = next(step for step in range(11_000, 12_000) if average.get_decay(step) == 0.998)
    settings = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert f"in the n-th at most 1 − n^(−2/3): 0.998 from step {reached:,} on" in settings


def test_a_term_with_weights_of_its_own_may_begin_late():
    state = train((CE(), Hint(student="blocks.1", teacher="layer2", ramp="second half")), 4)
    assert all(state.optimizer.state[p]["momentum_buffer"].any() for p in state.adapters.parameters())


def test_the_norm_of_all_gradients_is_clipped_and_of_what_they_are_without_a_scalers_factor():
    scaled = replace(CPU, scaled=True)
    state = begin(build_student("even", (), 5), torch.nn.Module(), Train(epochs=2, lr=1e-3), 2, scaled)
    loss = lambda images, labels, progress: (state.network(images).square().mean(), {})  # noqa: E731
    learn = Backward(loss, state.optimizer, state.scaler, scaled, clip_norm=1e-3)
    take_step(state, learn, lambda step: (torch.randn(4, 3, 32, 32), torch.arange(4)), World())
    gradients = [p.grad.norm() for group in state.optimizer.param_groups for p in group["params"]]
    assert torch.stack(gradients).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_what_muon_leaves_to_adamw_follows_the_schedule_in_an_older_timm_too():
    """Until `fallback_lr_scale` came, each group had a rate of its own for it, `adamw_lr`, which began as the other one."""
    plan = Train(epochs=2, optimizer="muon", lr=0.02, warmup_epochs=1)
    state = begin(build_student("even", (), 5), torch.nn.Module(), plan, 4, CPU)
    for group in state.optimizer.param_groups:
        group["adamw_lr"] = plan.lr
    learn = Backward(lambda images, labels, progress: (state.network(images).square().mean(), {}), state.optimizer, state.scaler, CPU)
    take_step(state, learn, lambda step: (torch.randn(4, 3, 32, 32), torch.arange(4)), World())
    assert [(group["lr"], group["adamw_lr"]) for group in state.optimizer.param_groups] == [(0.005, 0.005)] * 2


def test_an_older_timm_without_muon_is_named(monkeypatch):
    names = optim.list_optimizers()
    monkeypatch.setattr(optim, "list_optimizers", lambda: [name for name in names if "muon" not in name])
    with pytest.raises(KitError, match=r"timm [\d.]+ has no muon: .*--set train\.optimizer=adamw"):
        optim.make_optimizer([torch.nn.Linear(2, 2)], Train(epochs=1, optimizer="muon", lr=0.02))
