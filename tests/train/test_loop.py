"""The key test: k steps, killed, resumed, equals the straight run bit for bit."""

import contextlib
import copy
import random
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kit.config.schema import Train
from kit.console import Log
from kit.device import cpu_because
from kit.errors import KitError, Suspended
from kit.files import StorageError
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints, saved_in, to_bytes
from kit.train.divergence import SMALLER, find_trouble
from kit.train.gradients import Backward
from kit.train.loop import fit, take_step
from kit.train.optim import make_optimizer, rate_at
from kit.train.sam import uphill
from kit.train.state import begin
from kit.world import World

PER_EPOCH = 5


class Killed(BaseException):
    """SIGKILL as far as the loop can tell: nothing below it runs."""


class Hours:
    """A clock that stands still but for the work that is said to take time."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


def network(line=False):
    torch.manual_seed(7)
    if line:
        return nn.Linear(6, 3)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def batches(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 6, generator=generator)
    return x, x[:, :3].argmax(1)


@torch.no_grad()
def accuracy(model):
    assert not model.training  # its norms would learn what validation photos look like
    x, y = batches(10_000)
    return {"accuracy": (model(x).argmax(1) == y).float().mean().item()}


def train(out, plan, *, stop_at=None, kill_at=None, per_epoch=PER_EPOCH, world=None):
    """One session; returns the state at the plan's end. stop_at, kill_at: the step that a signal or a kill meets. world: what shares each
    batch.

    Under SGD the network is a line without batch norm, which a large rate makes diverge.
    """
    clock, model, world = Hours(), network(line=plan.optimizer == "sgd"), world or World()
    budget, share = Budget(None, clock=clock), world.share(32)
    budget.world = world

    def draw(step):
        clock.now += 1
        if step == kill_at:
            raise Killed
        if step == stop_at:
            budget.stop = "SIGTERM came"
        x, y = batches(step)
        return x[share], y[share]

    def loss(x, y, progress):
        if plan.optimizer == "sgd":
            return (model(x) - x[:, :3]).square().mean(), {}
        value = nn.functional.cross_entropy(model(x), y)
        return value, {"ce": value, "progress": value.new_tensor(progress)}

    return fit(
        model,
        loss,
        draw,
        accuracy,
        steps_per_epoch=per_epoch,
        train=plan,
        checkpoints=Checkpoints(out, "distil", {}, {}, Log(), world),
        budget=budget,
        device=cpu_because(""),
        log=Log(),
        on_epoch=lambda history, seconds: (out / "history").write_text(repr(history)),
    )


PLANS = {
    "adamw, cosine, EMA, warm-up": Train(epochs=4, lr=0.01, ema_decay=0.9, warmup_epochs=1, clip_norm=1.0, save_seconds=0),
    "sgd, drops": Train(epochs=4, lr=0.05, optimizer="sgd", schedule="step", drops=(0.5, 0.75), save_seconds=0),
    "sgd that diverges once": Train(epochs=4, lr=4.0, optimizer="sgd", schedule="constant", weight_decay=0, save_seconds=0),
    "SWA, one cycle": Train(epochs=4, lr=0.01, schedule="one_cycle", swa_from=0.5, save_seconds=0),
    "SAM, wsd": Train(epochs=4, lr=0.01, schedule="wsd", sam_rho=0.05, save_seconds=0),
    "Muon, linear, batch norm measured anew": Train(epochs=4, lr=0.01, optimizer="muon", schedule="linear", recalibrate=3, save_seconds=0),
    "final fit with EMA": Train(epochs=4, lr=0.01, ema_decay=0.9, final_fit=True, save_seconds=0),
    "adam, constant, saved only at the end of a session": Train(epochs=4, optimizer="adam", schedule="constant", save_seconds=999),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_three_stops_within_an_epoch_change_no_bit(plan, tmp_path):
    straight, broken = (tmp_path / name for name in ("straight", "broken"))
    straight.mkdir()
    broken.mkdir()
    whole = train(straight, plan)
    for step in (1, 2, 3, 9):
        with pytest.raises(Suspended):
            train(broken, plan, stop_at=step)
    assert to_bytes(train(broken, plan).state()) == to_bytes(whole.state())
    assert whole.good is whole.fresh is None  # a stage's result holds its weights, not two states to go back to
    assert (straight / "history").read_text() == (broken / "history").read_text()


@settings(deadline=None, max_examples=25)
@given(
    ends=st.lists(st.tuples(st.sampled_from(["kill_at", "stop_at"]), st.integers(0, 22)), max_size=4),
    interval=st.integers(0, 12),
    epochs=st.integers(1, 4),
    plan=st.sampled_from(sorted(PLANS)),
)
def test_any_kills_and_stops_with_any_saving_interval_change_no_bit(ends, interval, epochs, plan):
    plan, results = PLANS[plan].model_copy(update={"epochs": epochs, "save_seconds": interval}), []
    for sessions in ([], ends):
        with tempfile.TemporaryDirectory() as folder:
            for how, step in [*sessions, ("stop_at", None)]:
                with contextlib.suppress(Killed, Suspended):
                    state = train(Path(folder), plan, **{how: step})
            results.append((to_bytes(state.state()), (Path(folder) / "history").read_text()))
    assert results[0] == results[1]


def one_of_two(rank, place):
    """A process of two, which save at every step, at none, and stop on the way; all end in the middle of an epoch, by its losses so far."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    for name, seconds, stops in (("often", 2, [290]), ("once", 999, [290]), ("stopped", 999, [2, 151, 290])):
        (place / name).mkdir(exist_ok=True)
        for step in stops:
            plan = Train(epochs=4, ema_decay=0.9, save_seconds=seconds)
            with pytest.raises(Suspended):
                train(place / name, plan, stop_at=step, per_epoch=300, world=World(rank, 2))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_when_two_processes_save_or_stop_changes_no_bit(tmp_path):
    """A checkpoint is the first one's. What the other has seen of the epoch is in its sums all the same, and once."""
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    names = [saved_in(tmp_path / name)[-1].path.name for name in ("often", "once", "stopped")]
    assert names == names[:1] * 3


def test_an_epochs_images_a_second_are_of_the_images_that_this_session_took(tmp_path, capsys):
    with pytest.raises(Suspended):
        train(tmp_path, PLANS["SWA, one cycle"], stop_at=3)
    train(tmp_path, PLANS["SWA, one cycle"])
    assert capsys.readouterr().out.count(" 32 img/s") == 4  # a step a second


@pytest.mark.parametrize("per_epoch", [1, 2, 5])
def test_a_run_that_diverges_goes_back_once_and_on_with_a_smaller_step(tmp_path, capsys, per_epoch):
    """Also where the step that was too much ended its epoch: that shows in the next one's losses."""
    state = train(tmp_path, PLANS["sgd that diverges once"], per_epoch=per_epoch)
    assert "has exploded" in capsys.readouterr().out
    assert state.rate == SMALLER
    assert state.history[-1]["loss"] < state.history[0]["loss"]
    assert [line["epoch"] for line in state.history] == [1, 2, 3, 4]
    assert all(line["rate"] == SMALLER for line in state.history)


def test_what_was_taken_back_stays_so_after_a_stop(tmp_path, capsys):
    """The smaller step is in the checkpoint: the next session does not diverge again."""
    plan = PLANS["sgd that diverges once"]
    with pytest.raises(Suspended):
        train(tmp_path, plan, stop_at=11)
    capsys.readouterr()
    train(tmp_path, plan)
    assert "exploded" not in capsys.readouterr().out


def test_a_flipped_bit_just_after_a_run_went_back_changes_nothing(tmp_path):
    """What it went back from is the generation before, from where it goes back again."""
    plan, straight, broken = PLANS["sgd that diverges once"], *(tmp_path / name for name in ("straight", "broken"))
    straight.mkdir()
    broken.mkdir()
    with pytest.raises(Suspended):
        train(broken, plan, stop_at=4)
    with pytest.raises(Killed):
        train(broken, plan, kill_at=0)
    back, newest = Checkpoints(broken, "distil", {}, {}, Log()).files()
    assert (back.step, newest.step) == (4, 0)
    newest.path.write_bytes(b"")
    assert to_bytes(train(broken, plan).state()) == to_bytes(train(straight, plan).state())


def test_a_session_that_went_back_to_before_its_beginning_still_saves_where_it_stops(tmp_path):
    plan = PLANS["sgd that diverges once"].model_copy(update={"save_seconds": 999})
    for stop in (3, 2):
        with pytest.raises(Suspended):
            train(tmp_path, plan, stop_at=stop)
    assert [saved.step for saved in Checkpoints(tmp_path, "distil", {}, {}, Log()).files()] == [0, 3]


def test_what_is_no_number_is_not_saved_where_a_session_stops(tmp_path):
    plan = Train(epochs=4, optimizer="sgd", lr=1e20, schedule="constant", save_seconds=999)
    with pytest.raises(Suspended):
        train(tmp_path, plan, stop_at=3)
    saved = Checkpoints(tmp_path, "distil", {}, {}, Log()).load()
    assert (saved["step"], saved["rate"]) == (0, SMALLER)


def test_a_run_that_diverges_twice_stops_and_keeps_a_sound_checkpoint(tmp_path):
    plan = Train(epochs=4, optimizer="sgd", lr=1e20, schedule="constant", save_seconds=2)
    with pytest.raises(KitError, match=r"no number any more.*again after the learning rate was cut"):
        train(tmp_path, plan)
    saved = Checkpoints(tmp_path, "distil", {}, {}, Log()).load()
    assert all(torch.isfinite(tensor).all() for tensor in saved["network"].values())


@pytest.mark.parametrize(("mean", "trouble"), [(0.3, None), (3.0, "the loss 'ce' has exploded from 0.002 at the first step to 3")])
def test_a_trained_networks_loss_may_grow_tenfold_and_still_be_next_to_nothing(mean, trouble):
    """The sum of terms, whose weights may grow with the plan, is no measure."""
    state = begin(network(), nn.Module(), Train(epochs=2), PER_EPOCH, cpu_because(""))
    state.step, state.first = PER_EPOCH, {"loss": torch.tensor(0.002), "ce": torch.tensor(0.002)}
    state.sums = {"loss": torch.tensor(100 * mean * PER_EPOCH), "ce": torch.tensor(mean * PER_EPOCH)}
    assert find_trouble(state) == trouble


def test_what_another_version_saved_of_another_network_is_told_of(tmp_path):
    with pytest.raises(Suspended):
        train(tmp_path, PLANS["adamw, cosine, EMA, warm-up"], stop_at=5)
    with pytest.raises(KitError, match=r"distil: what was saved does not fit .*another version"):
        train(tmp_path, PLANS["sgd, drops"])


def test_a_full_disk_in_between_is_lived_with_and_the_last_checkpoint_is_not(tmp_path, capsys):
    """The folder is gone for the whole session, as a vanished mount is."""
    plan = PLANS["adamw, cosine, EMA, warm-up"]
    out = tmp_path / "out"
    out.mkdir()
    real, clock = Checkpoints(out, "distil", {}, {}, Log()), Hours()
    model, budget = network(), Budget(None, clock=clock)

    def draw(step):
        if step == 3:
            (out / "checkpoints").rename(tmp_path / "vanished")
        if step == 12:
            budget.stop = "SIGTERM came"
        return batches(step)

    rest = {"steps_per_epoch": PER_EPOCH, "train": plan, "budget": budget, "device": cpu_because(""), "log": Log()}
    with pytest.raises(StorageError, match="The folder or its mount has vanished"):
        fit(model, lambda x, y, p: (nn.functional.cross_entropy(model(x), y), {}), draw, accuracy, checkpoints=real, on_epoch=print, **rest)
    assert "no checkpoint this time" in capsys.readouterr().out
    (tmp_path / "vanished").rename(out / "checkpoints")
    assert real.load()["step"] == 3


@pytest.mark.parametrize(
    ("budget", "step", "evaluate", "save", "share"),
    [
        (240, 0.3, 9, 0.4, 0.8),
        (590, 2.0, 20, 1, 0.8),
        (1_800, 0.3, 9, 0.4, 0.9),
        (3_600, 4.0, 90, 8, 0.9),
        (32_400, 8.0, 90, 15, 0.95),
        (800, 2.0, 300, 1, 0.75),
    ],
)
def test_a_suspended_session_uses_its_budget_and_is_never_over_it(tmp_path, budget, step, evaluate, save, share):
    """A simulated clock, a hand-in that takes as long as it was rehearsed, and work whose time varies by a tenth."""
    clock, vary, model = Hours(), random.Random(5), nn.Linear(6, 3)

    class Slow(Checkpoints):
        def save(self, at, state):
            clock.now += save * vary.uniform(0.9, 1.1)
            return super().save(at, state)

    def draw(at):
        clock.now += step * vary.uniform(0.9, 1.1)
        return batches(at % 50)

    def look(_):
        clock.now += evaluate * vary.uniform(0.9, 1.1)
        return {"accuracy": 0.5}

    session = Budget(budget, started=clock(), clock=clock)
    clock.now += 20  # photos, teacher, rehearsal
    session.longest["hand in"] = 25.0
    with pytest.raises(Suspended):
        fit(
            model,
            lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
            draw,
            look,
            steps_per_epoch=78,
            train=Train(epochs=10_000, save_seconds=60),
            checkpoints=Slow(tmp_path, "distil", {}, {}, Log()),
            budget=session,
            device=cpu_because(""),
            log=lambda line: None,
            on_epoch=lambda history, seconds: None,
        )
    clock.now += 25 * 1.1
    assert share * budget <= session.elapsed() <= budget


def test_what_compiling_takes_is_expected_of_no_step_after_it(tmp_path):
    """Other terms are compiled anew, here in the second epoch."""
    clock, model = Hours(), network()
    budget = Budget(None, clock=clock)

    def draw(step):
        clock.now += 30 if step in (0, PER_EPOCH) else 1
        return batches(step)

    fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        draw,
        accuracy,
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=2, compile=True),
        checkpoints=Checkpoints(tmp_path, "distil", {}, {}, Log()),
        budget=budget,
        device=cpu_because(""),
        log=Log(),
        on_epoch=lambda history, seconds: None,
        prepare=lambda progress: progress >= 0.5,
    )
    assert (budget.longest["compile"], budget.times["compile"], budget.longest["distil step"]) == (30, 2, 1)


def test_the_best_epoch_is_kept_and_patience_ends_the_plan(tmp_path, log):
    scores, model = iter([0.3, 0.6, 0.6, 0.4, 0.9]), network()  # of equals the first
    state = fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        batches,
        lambda _: {"accuracy": next(scores)},
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=50, patience=2),
        checkpoints=Checkpoints(tmp_path, "distil", {}, {}, log),
        budget=Budget(None),
        device=cpu_because(""),
        log=log,
        on_epoch=lambda history, seconds: None,
    )
    assert (state.best["accuracy"], state.best["epoch"]) == (0.6, 2)


def test_schedules_are_functions_of_the_step():
    cosine = Train(epochs=10, lr=1.0, warmup_epochs=1)
    assert [rate_at(step, 4, 4, cosine) for step in range(4)] == [0.5, 1.0, 1.0, 0.5]  # no plan ends while it still rises
    assert [rate_at(step, 100, 10, cosine) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_at(55, 100, 10, cosine) == pytest.approx(0.5)
    assert rate_at(99, 100, 10, cosine) < 0.001
    drops = Train(epochs=10, lr=1.0, schedule="step", drops=(0.5, 0.75))
    assert [rate_at(step, 100, 10, drops) for step in (0, 49, 50, 80)] == pytest.approx([1, 1, 0.1, 0.01])
    assert rate_at(77, 100, 10, Train(epochs=10, lr=0.3, schedule="constant")) == 0.3


def test_a_line_a_late_fall_and_one_cycle_are_functions_of_the_step_too():
    line = Train(epochs=10, lr=1.0, schedule="linear", warmup_epochs=1)
    assert [rate_at(step, 100, 10, line) for step in (4, 10, 55, 99)] == pytest.approx([0.5, 1.0, 0.5, 1 / 90])
    late = Train(epochs=10, lr=1.0, schedule="wsd", cooldown=0.25)
    assert [rate_at(step, 100, 10, late) for step in (0, 75, 81.25, 100)] == pytest.approx([1, 1, 0.5, 0])
    assert rate_at(99, 100, 10, Train(epochs=10, lr=1.0, schedule="wsd", cooldown=0)) == 1


def test_one_cycle_is_torchs():
    """Within a thousandth: OneCycleLR ends its phases a step earlier."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=1_001, cycle_momentum=False)
    plan = Train(epochs=10, lr=0.3, schedule="one_cycle")
    for step in range(1_000):
        assert rate_at(step, 1_000, 100, plan) == pytest.approx(reference.get_last_lr()[0], abs=0.001)
        optimizer.step()
        reference.step()


def test_the_average_is_the_plain_mean_of_the_epochs_ends(tmp_path):
    plan, ends = Train(epochs=4, lr=0.01, swa_from=0.5, save_seconds=0, schedule="constant"), []
    for epochs in (3, 4):
        (tmp_path / str(epochs)).mkdir()
        ends.append(train(tmp_path / str(epochs), plan.model_copy(update={"epochs": epochs, "swa_from": None})).network[0].weight)
    averaged = train(tmp_path, plan).average
    assert averaged.n_averaged == 2
    assert torch.allclose(averaged.module[0].weight, (ends[0] + ends[1]) / 2, atol=1e-7)


def test_sharpness_aware_steps_follow_the_gradient_from_uphill_and_leave_no_other_trace():
    """f(w) = |w|²/2 from (3, 4) with ρ = 1: the ascent goes to (3.6, 4.8), whose gradient is itself."""
    line, norm = nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[3.0, 4.0]]))
    (line.weight.square().sum() / 2).backward()
    with uphill(nn.Sequential(line, norm), [line.weight], 1.0):
        assert torch.allclose(line.weight, torch.tensor([[3.6, 4.8]]))
        norm(torch.randn(8, 1))
        line.weight.grad = None
        (line.weight.square().sum() / 2).backward()
    assert torch.equal(line.weight, torch.tensor([[3.0, 4.0]]))
    assert torch.allclose(line.weight.grad, torch.tensor([[3.6, 4.8]]))
    assert norm.running_var.item() == 1
    assert norm.num_batches_tracked == 0


def test_a_sharpness_aware_step_counts_once_in_batch_norms_of_adapters():
    student, norm = network(line=True), nn.BatchNorm1d(3)
    state = begin(student, nn.Sequential(norm), Train(epochs=1, sam_rho=0.05), PER_EPOCH, cpu_because(""))

    def loss(images, labels, p):
        return norm(student(images)).cos().mean(), {}

    take_step(state, Backward(loss, state.optimizer, state.scaler, cpu_because("")), batches, World())
    assert norm.num_batches_tracked == 1


def test_a_final_fit_looks_at_no_validation_and_deploys_the_last_weights(tmp_path):
    def never(_):
        raise AssertionError("validation was looked at")

    model = network()
    state = fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        batches,
        never,
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=2, final_fit=True, recalibrate=2),
        checkpoints=Checkpoints(tmp_path, "distil", {}, {}, Log()),
        budget=Budget(None),
        device=cpu_because(""),
        log=Log(),
        on_epoch=lambda history, seconds: None,
    )
    assert (state.best["accuracy"], state.best["epoch"]) == (None, 2)
    assert torch.equal(state.best["weights"]["0.weight"], model[0].weight)
    assert "accuracy" not in state.history[-1]


def test_norms_measured_anew_at_the_end_are_taken_where_validation_says_so(tmp_path):
    """The evaluator likes only a network whose norm has the statistics of photos as they are; training's are mixed, here brighter."""
    model = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3))
    scores = lambda m: {"accuracy": 1 / (1 + m[1].running_mean.abs().sum().item())}  # noqa: E731
    state = fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        lambda step: (batches(step)[0] + 5, batches(step)[1]),
        scores,
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=1, recalibrate=4),
        checkpoints=Checkpoints(tmp_path, "distil", {}, {}, Log()),
        budget=Budget(None),
        device=cpu_because(""),
        log=Log(),
        on_epoch=lambda history, seconds: None,
        unmixed=batches,
    )
    assert state.best["accuracy"] > state.history[-1]["accuracy"]
    seen = torch.stack([batches(step)[0].mean(0) for step in range(4)]).mean(0)
    assert torch.allclose(state.best["weights"]["1.running_mean"], seen, atol=1e-5)


def test_weights_whose_norms_were_measured_anew_are_still_of_their_own_epoch(tmp_path):
    """The first of two epochs is the better one, and better still once it is measured anew."""
    model, found = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3)), iter((0.5, 0.2, 0.6))
    seen = []
    state = fit(
        model,
        lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
        batches,
        lambda m: seen.append(m[3].weight.clone()) or {"accuracy": next(found)},
        steps_per_epoch=PER_EPOCH,
        train=Train(epochs=2, recalibrate=2),
        checkpoints=Checkpoints(tmp_path, "distil", {}, {}, Log()),
        budget=Budget(None),
        device=cpu_because(""),
        log=Log(),
        on_epoch=lambda history, seconds: None,
    )
    assert (state.best["accuracy"], state.best["epoch"]) == (0.6, 1)
    assert torch.equal(seen[2], seen[0])
    assert not torch.equal(seen[2], seen[1])


def test_a_session_without_time_to_measure_norms_anew_saves_the_plans_last_step(tmp_path):
    plan = Train(epochs=2, recalibrate=3, save_seconds=999)
    with pytest.raises(Suspended, match="stopped before batch norm of distil was measured anew"):
        train(tmp_path, plan, stop_at=2 * PER_EPOCH - 1)
    assert saved_in(tmp_path)[-1].step == 2 * PER_EPOCH


def test_weight_decay_spares_biases_and_norms_unless_all_is_asked_for():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    groups = make_optimizer([copy.deepcopy(model)], Train(epochs=1, weight_decay=0.1)).param_groups
    assert sorted((group["weight_decay"], len(group["params"])) for group in groups) == [(0.0, 3), (0.1, 1)]
    everything = make_optimizer([model], Train(epochs=1, weight_decay=0.1, decay_everything=True)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in everything] == [(0.1, 4)]


def test_norms_measured_anew_in_another_session_see_the_same_dropout(tmp_path):
    """The second run is killed at the first batch that is measured, and a new process's generator is anywhere."""

    def measured(out, kill=None):
        torch.manual_seed(7)
        model, drawn = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.Dropout(0.5), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 3)), []

        def draw(step):
            drawn.append(step)
            if len(drawn) == kill:
                raise Killed
            return batches(step)

        state = fit(
            model,
            lambda x, y, progress: (nn.functional.cross_entropy(model(x), y), {}),
            draw,
            lambda m: {"accuracy": float(m[2].num_batches_tracked == 4)},
            steps_per_epoch=PER_EPOCH,
            train=Train(epochs=1, recalibrate=4, save_seconds=0),
            checkpoints=Checkpoints(out, "distil", {}, {}, Log()),
            budget=Budget(None),
            device=cpu_because(""),
            log=Log(),
            on_epoch=lambda history, seconds: None,
        )
        return state.best["weights"]["2.running_mean"]

    (tmp_path / "straight").mkdir()
    straight = measured(tmp_path / "straight")
    with pytest.raises(Killed):
        measured(tmp_path, kill=PER_EPOCH + 1)
    assert torch.equal(measured(tmp_path), straight)
