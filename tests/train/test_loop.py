"""The key test: k steps, killed, resumed, equals the straight run bit for bit."""

import copy
import math

import pytest
import torch
from torch import nn

from kit.config.schema import Train
from kit.device import cpu
from kit.errors import KitError, Suspended
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.loop import fit
from kit.train.optim import make_optimizer, rate_at

PER_EPOCH = 5


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 6, generator=generator)
    return x, x[:, :3].argmax(1)


def train(folder, log, plan, *, stop_after=None, model=None, break_at=None):
    """One session; returns (best, network). stop_after: steps before the budget is over."""
    model, budget, taken = model or network(), Budget(None), 0

    def loss(x, y, progress):
        nonlocal taken
        taken += 1
        if taken == stop_after:
            budget.stop = "time is up"
        value = nn.functional.cross_entropy(model(x), y)
        return value * (math.nan if taken == break_at else 1.0), {"progress": value.new_tensor(progress)}

    best = fit(
        model,
        loss,
        batches,
        accuracy,
        steps_per_epoch=PER_EPOCH,
        train=plan,
        checkpoints=Checkpoints(folder, "distil", {}, log),
        budget=budget,
        device=cpu(""),
        log=log,
        on_epoch=lambda history: (folder / "history").write_text(repr(history)),
    )
    return best, model


@torch.no_grad()
def accuracy(model):
    x, y = batches(10_000)
    return (model(x).argmax(1) == y).float().mean().item()


PLANS = {
    "adamw, cosine, EMA, warm-up": Train(epochs=4, lr=0.01, ema_decay=0.9, warmup_epochs=1, clip_norm=1.0, save_seconds=0),
    "sgd, drops": Train(epochs=4, lr=0.05, optimizer="sgd", schedule="step", drops=(0.5, 0.75), save_seconds=0),
    "adam, constant, saved only at the end of a session": Train(epochs=4, optimizer="adam", schedule="constant", save_seconds=999),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_three_stops_within_an_epoch_change_no_bit(plan, tmp_path, log):
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
    straight, _ = train(tmp_path / "straight", log, plan)
    for steps in (2, 1, 1, 6):
        with pytest.raises(Suspended):
            train(tmp_path / "broken", log, plan, stop_after=steps)
    resumed, _ = train(tmp_path / "broken", log, plan)
    assert (resumed["accuracy"], resumed["epoch"]) == (straight["accuracy"], straight["epoch"])
    assert all(torch.equal(resumed["weights"][name], tensor) for name, tensor in straight["weights"].items())
    assert (tmp_path / "straight" / "history").read_text() == (tmp_path / "broken" / "history").read_text()


def test_the_best_epoch_is_kept_and_patience_ends_the_plan(tmp_path, log):
    scores, model = iter([0.3, 0.6, 0.5, 0.4, 0.9]), network()
    best = fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        batches,
        lambda _: next(scores),
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=50, patience=2),
        checkpoints=Checkpoints(tmp_path, "distil", {}, log),
        budget=Budget(None),
        device=cpu(""),
        log=log,
        on_epoch=lambda history: None,
    )
    assert (best["accuracy"], best["epoch"]) == (0.6, 2)


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint_before(tmp_path, log):
    plan = Train(epochs=4, save_seconds=0)
    with pytest.raises(KitError, match="no number any more"):
        train(tmp_path, log, plan, break_at=7)
    checkpoints = Checkpoints(tmp_path, "distil", {}, log)
    assert checkpoints.load()["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in checkpoints.load()["network"].values())


def test_schedules_are_functions_of_the_step():
    cosine = Train(epochs=10, lr=1.0, warmup_epochs=1)
    assert [rate_at(step, 100, 10, cosine) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_at(55, 100, 10, cosine) == pytest.approx(0.5)
    assert rate_at(99, 100, 10, cosine) < 0.001
    drops = Train(epochs=10, lr=1.0, schedule="step", drops=(0.5, 0.75))
    assert [rate_at(step, 100, 10, drops) for step in (0, 49, 50, 80)] == pytest.approx([1, 1, 0.1, 0.01])
    assert rate_at(77, 100, 10, Train(epochs=10, lr=0.3, schedule="constant")) == 0.3


def test_weight_decay_spares_biases_and_norms_unless_all_is_asked_for():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = make_optimizer([copy.deepcopy(model)], Train(epochs=1, weight_decay=0.1)).param_groups
    assert sorted((group["weight_decay"], len(group["params"])) for group in groups) == [(0.0, 3), (0.1, 1)]
    everything = make_optimizer([model], Train(epochs=1, weight_decay=0.1, decay_everything=True)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in everything] == [(0.1, 4)]
