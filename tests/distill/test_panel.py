import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.terms import KD, Hint
from kit.device import choose_device
from kit.distill.align import look
from kit.distill.objective import Objective
from kit.distill.panel import Panel
from kit.models.students import build_student
from kit.stages.teacher import panel_of


def networks(count):
    torch.manual_seed(0)
    return [torchvision.models.resnet18(num_classes=5) for _ in range(count)]


def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_several_teachers_give_the_mean_of_their_probabilities():
    panel = Panel(networks(3))
    with torch.no_grad():
        wanted = sum(network(images()).softmax(1) for network in panel.networks) / 3
    assert torch.allclose(panel(images()).softmax(1), wanted)


def test_a_loud_teacher_does_not_outvote_the_others():
    class Sure(nn.Module):
        def __init__(self, *logits):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([logits]))

        def forward(self, x):
            return self.logits.expand(len(x), -1)

    panel = Panel([Sure(90.0, 0.0), Sure(0.0, 5.0), Sure(0.0, 5.0)])
    assert panel(images()).argmax(1).tolist() == [1, 1, 1]
    assert panel(images()).isfinite().all()


def test_a_view_and_its_mirror_image_count_alike():
    (network,) = networks(1)
    panel, x = Panel([network], flip=True), images()
    with torch.no_grad():
        assert torch.allclose(panel(x), (network(x) + network(x.flip(-1))) / 2, atol=1e-6)
    assert torch.allclose(panel(x), panel(x.flip(-1)), atol=1e-6)
    asked = panel_of([network], override(recipe("record"), ["teacher.flip=true"]), choose_device())
    assert torch.equal(asked(x), asked(x.flip(-1)))


def test_one_teacher_alone_is_what_it_was():
    (network,) = networks(1)
    assert torch.equal(Panel([network])(images()), network.eval()(images()))


def test_each_network_sees_the_images_in_its_own_precision_and_answers_in_float32():
    first, second = networks(2)
    panel = Panel([first.to(torch.bfloat16), second])
    assert panel(images()).dtype == torch.float32


def test_teachers_see_the_view_at_their_own_side():
    (network,) = networks(1)
    x = images().repeat_interleave(2, 2).repeat_interleave(2, 3)  # 64 px
    seen = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(Panel([network], side=32)(x), network(seen))
    assert torch.equal(Panel([network], side=64)(x), network(x))
    assert torch.equal(Panel([network.to(torch.bfloat16)], side=32)(x), network(seen.to(torch.bfloat16)).float())


def test_maps_of_a_teacher_that_sees_smaller_views_are_compared_at_its_size():
    (teacher,), student, x = networks(1), build_student("boss", (), 5), images().repeat_interleave(2, 2).repeat_interleave(2, 3)
    objective = Objective(student.eval(), Panel([teacher], side=32), (Hint(student="stem", teacher="maxpool"),), 64)
    _, parts = objective(x, torch.zeros(3, dtype=torch.int64), 0.0)
    with torch.no_grad():
        ours = F.avg_pool2d(student.stem(x), 2)
        theirs = look(teacher, ["maxpool"], F.interpolate(x, (32, 32), mode="bilinear", antialias=True))["maxpool"]
    assert torch.allclose(parts["hint maxpool"], F.smooth_l1_loss(ours, theirs))


@pytest.mark.parametrize("flip", [False, True])
def test_hints_are_of_the_first_teachers_map_of_the_view_as_it_is(flip):
    teachers, student, x = networks(2), build_student("record", (), 5), images()
    terms, y = (Hint(student="blocks.1", teacher="layer1"), KD()), torch.zeros(3, dtype=torch.int64)
    torch.manual_seed(2)
    _, alone = Objective(student.eval(), teachers[0], terms, 32)(x, y, 0.0)
    torch.manual_seed(2)
    _, together = Objective(student.eval(), Panel(teachers, flip), terms, 32)(x, y, 0.0)
    assert torch.equal(alone["hint layer1"], together["hint layer1"])
    assert alone["kd"] != together["kd"]
