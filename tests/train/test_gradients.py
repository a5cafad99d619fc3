"""A step recorded as a CUDA graph is the step: to the bit, whatever happens around it."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kit.augment.views import training_views
from kit.config.recipes import BOSS
from kit.config.schema import Data, Train
from kit.config.terms import CE, KD, Hint
from kit.data.cache import load_photos
from kit.data.layout import find_dataset
from kit.data.loader import CachedBatches
from kit.data.order import Order
from kit.device import choose_device, cpu_because
from kit.distill.objective import Objective
from kit.fuse import fused
from kit.models.students import build_student
from kit.models.teacher import build_teacher
from kit.train.gradients import TIMED, WARM, Backward, Recorded
from kit.train.loop import take_step
from kit.train.state import begin
from kit.world import World

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: CUDA graphs were not tried")
STEPS = 2 * (2 * WARM + 2 * TIMED + 6)  # recorded, compared, and in the second half recorded anew, for another term begins
TERMS = (KD(temperature=4), CE(weight=0.5, ramp="second half"), Hint(student="blocks.1", teacher="layer2"))


def batches(step):
    generator = torch.Generator().manual_seed(step)
    images, labels = torch.randn(16, 3, 64, 64, generator=generator), torch.randint(5, (16,), generator=generator)
    return images.cuda().to(memory_format=torch.channels_last), labels.cuda()


def trained(plan, recorded, *, steps=STEPS, wrap=lambda loss: loss, says=print, half=None, batches=batches, fuse=None, back=None):
    """Every tensor of a training's state after some steps, and how it was recorded. half: float16 is scaled, as on a T4. fuse: compiled.
    back: before this step, to where it was at half of that."""
    torch.manual_seed(0)
    device = choose_device()
    if half is torch.float16:
        device = replace(device, teacher=half, autocast=half, scaled=True)
    student = build_student("even", (), 5).cuda()
    student.fc = nn.Sequential(nn.Dropout(0.2), student.fc)
    teacher = build_teacher("torchvision/resnet18", 5).eval().requires_grad_(False).to(device.device, device.teacher)
    objective = Objective(student, teacher, TERMS, 64, fuse=fuse)
    state = begin(student, objective.adapters, plan, steps // 2, device)
    learn = Backward(wrap(objective), state.optimizer, state.scaler, device, plan.clip_norm)
    if recorded:
        learn = Recorded(learn, objective.prepare, says, updates=not plan.sam_rho)
    for step in range(steps):
        if back and step == back // 2:
            good = copy.deepcopy(state.state())
        if step == back:
            state.load(good, device.device)
        take_step(state, learn, batches, World())
    moments = {f"{i} {name}": value for i, of in state.optimizer.state_dict()["state"].items() for name, value in of.items()}
    parts = (state.network, state.adapters, state.ema.module)
    return moments | {name: tensor for part in parts for name, tensor in part.state_dict().items()}, learn


PLANS = [{}, {"sam_rho": 0.05}, {"clip_norm": 1.0, "optimizer": "sgd"}, {"clip_norm": 1.0, "optimizer": "adam", "schedule": "linear"}]


@gpu
@pytest.mark.parametrize(("more", "half"), [*((more, None) for more in PLANS), ({}, torch.float16)], ids=str)
def test_recorded_steps_give_the_same_bits(more, half):
    plan, said = Train(epochs=2, ema_decay=0.9, lr=1e-3, **more), []
    launched, _ = trained(plan, False, half=half)
    recorded, learn = trained(plan, True, says=said.append, half=half)
    assert learn.graph is not None or learn.pays is False
    assert "as a CUDA graph: " in said[0]
    assert learn.updates == (plan.optimizer in ("adam", "adamw") and not plan.sam_rho and half is None)
    assert all(torch.equal(launched[name], recorded[name]) for name in launched)


@gpu
def test_a_run_that_goes_back_updates_the_state_that_it_has_loaded():
    plan, back = Train(epochs=2, ema_decay=0.9, lr=1e-3), STEPS // 2 - 2  # recorded and of one kind so far
    launched, _ = trained(plan, False, back=back)
    recorded, learn = trained(plan, True, back=back)
    assert learn.updates
    assert all(torch.equal(launched[name], recorded[name]) for name in launched)


def test_a_state_that_the_optimizer_loads_is_not_the_one_that_was_recorded():
    images, labels, network, device = torch.randn(4, 3, 32, 32), torch.arange(4), build_student("even", (), 5), cpu_because("")
    state = begin(network, nn.Module(), Train(epochs=1), 9, device)
    loss = lambda images, labels, progress: (F.cross_entropy(network(images), labels), {})  # noqa: E731
    learn, counted = Recorded(Backward(loss, state.optimizer, state.scaler, device), lambda progress: None, print, pays=False), []
    for step in range(4):
        if step == 2:  # as a run that has diverged does
            held = [moments["exp_avg"] for moments in state.optimizer.state.values()]
            state.load(copy.deepcopy(state.state()), device.device)
            assert not any(moments["exp_avg"] is old for moments, old in zip(state.optimizer.state.values(), held, strict=True))
        take_step(state, learn, lambda step: (images, labels), World())
        counted.append(learn.steps)  # of those that a recording follows
    assert counted == [1, 2, 1, 2]


@gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, where it compiles
def test_recorded_steps_that_were_compiled_give_the_bits_of_compiled_ones():
    plan = Train(epochs=2, ema_decay=0.9, lr=1e-3, clip_norm=1.0)
    launched, _ = trained(plan, False, fuse=fused)
    recorded, _ = trained(plan, True, fuse=fused)
    assert all(torch.equal(launched[name], recorded[name]) for name in launched)


@gpu
def test_what_was_recorded_leaves_an_optimizer_that_any_device_can_load():
    _, learn = trained(Train(epochs=2, ema_decay=0.9, lr=1e-3), True, says=lambda _: None)
    groups = learn.learn.optimizer.state_dict()["param_groups"]
    assert all(isinstance(group["lr"], float) and not group["capturable"] for group in groups)


@gpu
def test_a_step_that_the_host_waits_for_is_taken_as_before():
    """A loss that reads a value back can't be recorded: it is said once, and the weights are those of an unrecorded run."""

    def waiting(loss):
        def total(images, labels, progress):
            value, values = loss(images, labels, progress)
            assert value.item() == value.item()
            return value, values

        return total

    plan, said, stream, held = Train(epochs=2, ema_decay=0.9, lr=1e-3), [], torch.cuda.current_stream(), []

    def fed(step):  # by another stream, as the kit's feed does: what is held for it must be given back
        held.append(torch.cuda.memory_allocated())
        with torch.cuda.stream(side):
            batch = batches(step)
        stream.wait_stream(side)
        for tensor in batch:
            tensor.record_stream(stream)
        return batch

    side = torch.cuda.Stream()
    launched, _ = trained(plan, False)
    refused, learn = trained(plan, True, wrap=waiting, says=said.append, batches=fed)
    assert learn.pays is False
    assert said == ["steps can't be recorded as a CUDA graph: the host waits for the GPU in them"]
    assert torch.cuda.current_stream() == stream
    assert held[-1] < held[WARM + 2] + 5 * 16 * 3 * 64 * 64 * 4  # no batch for each step
    assert all(torch.equal(launched[name], refused[name]) for name in launched)


@gpu
def test_photos_are_streamed_by_threads_while_steps_are_recorded(drawn, tmp_path, log):
    photos = load_photos(find_dataset(drawn, None, 0.2, 0).splits, 64, tmp_path, log)["training"]
    photos = replace(photos, labels=photos.labels % 5)
    data = Data(image_size=64, cache_size=64)

    def feed(kind):
        views = lambda p, s, g, share: training_views(p, s, g, data, BOSS, share)  # noqa: E731
        return CachedBatches(photos, Order(len(photos), 16, 3), views, choose_device().device, kind, 3)

    plan = Train(epochs=2, ema_decay=0.9, lr=1e-3)
    resident, _ = trained(plan, False, batches=feed("cache"))
    streamed, learn = trained(plan, True, batches=feed("stream"))
    assert learn.graph is not None or learn.pays is False
    assert all(torch.equal(resident[name], streamed[name]) for name in resident)


def test_an_objective_is_brought_to_a_share_of_the_plan_in_place_and_says_what_it_computes_there():
    objective = Objective(build_student("even", (), 5), build_teacher("torchvision/resnet18", 5), TERMS, 64)
    weights = objective.weights
    assert objective.prepare(0.25) == (True, False, True)
    assert objective.prepare(0.5) == (True, True, True)
    assert objective.weights is weights
    assert weights.tolist() == [1, 0.5, 1]
