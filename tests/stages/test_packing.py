import pytest
import torch

from kit.compress.calibrate import PHOTOS
from kit.compress.lsq import Stepped, with_steps
from kit.config.override import override
from kit.config.recipes import recipe
from kit.data.order import Order
from kit.models.students import build_student
from kit.stages.packing import rounded_by

CPU = torch.device("cpu")


def round_with(student, *changes, photos=2000):
    """(the student as it would be packed, how many images were looked at)."""
    config, seen = override(recipe("record"), ["data.image_size=32", *changes]), []

    def batches(step):
        draw = torch.Generator().manual_seed(step)
        return torch.randn(order.batch_size, 3, 32, 32, generator=draw), torch.zeros(order.batch_size)

    order = Order(photos, config.train.batch_size, 0)
    watch = student.register_forward_pre_hook(lambda model, given: seen.append(len(given[0])))  # its copies have it, too
    model = rounded_by(student, config, lambda: (batches, order, CPU))
    watch.remove()
    return model, sum(seen)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return build_student(recipe("record").student.name, (), 11).eval()


def test_a_student_is_rounded_by_as_many_photos_as_asked_and_by_no_more_than_an_epoch_has(student):
    assert recipe("record").train.batch_size == 64
    for changes, photos, wanted in (([], 2000, PHOTOS), (["pack.calibration=100"], 2000, 100), ([], 200, 192)):
        model, seen = round_with(student, *changes, photos=photos)
        assert any(isinstance(layer, Stepped) for layer in model.modules())
        assert seen == wanted


def test_what_has_no_steps_or_is_on_a_grid_already_stays_as_it_is(student):
    for changes in (["pack.calibration=0"], ["pack.method=codebook"], ["pack.method=course"]):
        assert round_with(student, *changes) == (student, 0)
    trained = with_steps(student, recipe("record").pack)
    assert round_with(trained) == (trained, 0)
