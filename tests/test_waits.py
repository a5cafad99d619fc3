"""On a GPU nothing in a step waits for it. Tensors that have a device and shapes, but no values, show that on any machine."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kit.augment.mix import mix
from kit.augment.views import luma, training_views
from kit.augment.warp import line_to_input
from kit.config.schema import Augment, Data
from kit.config.terms import CE, DKD, KD, Hint
from kit.distill.objective import Objective
from kit.models.students import build_student
from kit.models.teacher import build_teacher

CARD = torch.device("cuda:0")
TERMS = (KD(temperature=4), DKD(), CE(), Hint(student="blocks.1", teacher="layer2"))


class Waits(TorchDispatchMode):
    """found: what the host would wait for: a value that is read back, or a copy to or from the GPU that is not left to its own time."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.name()
        if name == "aten::_pin_memory":  # needs a GPU, and changes nothing that is looked at here
            return args[0]
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        devices |= {torch.device(kwargs["device"]).type} if kwargs.get("device") else set()
        later = kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2])
        if name in ("aten::_to_copy", "aten::copy_") and devices == {"cpu", "cuda"} and not later:
            self.found.append(name)
        if name in ("aten::_local_scalar_dense", "aten::nonzero") and "cuda" in devices:
            self.found.append(name)
        return function(*args, **kwargs)


def on_card(model):
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in [(name, tensor) for name, tensor in tensors.items() if tensor is not None]:
                there = torch.empty_like(tensor, device=CARD)
                tensors[name] = torch.nn.Parameter(there, tensor.requires_grad) if tensors is module._parameters else there


@pytest.fixture
def card():
    """Within it CUDA's tensors are these; none is left for a test that has a GPU."""
    kept = (line_to_input, luma)
    for made_once in kept:
        made_once.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    for made_once in kept:
        made_once.cache_clear()


def batch():
    return torch.empty(8, 3, 64, 64, device=CARD), torch.zeros(8, dtype=torch.int64, device=CARD)


@pytest.mark.parametrize("how", [{"mixup": 0.2}, {"cutmix": 1.0}], ids=str)
def test_mixing_waits_for_nothing(card, how):
    images, labels = batch()
    with Waits() as waits:
        mixed, soft = mix(images, labels, 5, Augment(**how), np.random.default_rng(0), 8, slice(None))
    assert mixed.device == soft.device == CARD
    assert waits.found == []


def test_views_wait_for_nothing(card):
    pixels, generator = torch.zeros(8, 48, 48, 3, dtype=torch.uint8, device=CARD), torch.Generator().manual_seed(0)
    augment = Augment(crop_scale=(0.5, 1), rotate=30, affine_rotate=20, brightness=0.2, contrast=0.2, saturation=0.2)
    sizes, data = torch.full((8, 2), 60), Data(image_size=32)
    with Waits():  # what is made once is there from then on
        training_views(pixels, sizes, generator, data, augment)
    with Waits() as waits:
        views = training_views(pixels, sizes, generator, data, augment)
    assert views.device == CARD
    assert waits.found == []


def test_the_objective_waits_for_nothing():
    student, teacher = build_student("even", (), 5), build_teacher("torchvision/resnet18", 5).eval().requires_grad_(False)
    objective = Objective(student, teacher, TERMS, 64)
    objective.prepare(0.5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for model in (student, objective.teacher, objective.adapters):
            on_card(model)
        objective.weights = torch.zeros(len(TERMS), device=CARD)
        with Waits() as waits:
            total, _ = objective(*batch(), 0.5)
    assert total.device == CARD
    assert waits.found == []


def test_what_waits_is_found(card):
    images, labels = batch()
    with Waits() as waits:
        images.cpu()
        torch.zeros(3).to(CARD)
        labels.copy_(torch.zeros(8, dtype=torch.int64))
        with pytest.raises(DataDependentOutputException):  # the value that is asked for is not there
            labels.sum().item()
    assert waits.found == ["aten::_to_copy", "aten::_to_copy", "aten::copy_", "aten::_local_scalar_dense"]
