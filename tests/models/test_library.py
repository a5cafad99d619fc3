import pytest
import timm
import torch

from kit.compress.pack import pack, unpack
from kit.config.recipes import recipe
from kit.config.schema import Config
from kit.distill.align import LOGITS, look
from kit.errors import KitError
from kit.models.library import refuse_unusable
from kit.models.recognise import as_network
from kit.models.students import build_student, count_parameters, widths_of

SMALL = "timm/lcnet_035"


def test_a_network_of_timms_is_a_student_by_its_name_alone():
    student, reference = build_student(SMALL, (), 11), timm.create_model("lcnet_035", num_classes=11)
    assert count_parameters(student) == count_parameters(reference)
    assert widths_of(build_student(SMALL, widths_of(student), 11)) == widths_of(student)
    assert student(torch.zeros(2, 3, 64, 64)).shape == (2, 11)


def test_a_layer_of_one_channel_keeps_its_place_among_the_widths():
    """A depthwise convolution of it is in one group, as a plain one."""
    for name in (SMALL, "hw7", "boss", "inverted"):
        widths = tuple(1 for _ in widths_of(build_student(name, (), 4)))
        assert widths_of(build_student(name, widths, 4)) == widths


def test_another_programs_weights_are_read_under_the_students_names():
    own = build_student("timm/resnet10t", (), 5).state_dict()
    assert as_network(own, "timm/resnet10t").state_dict().keys() == own.keys()  # whose last layer has the same name in both
    weights = timm.create_model("lcnet_035", num_classes=11).eval().state_dict()
    found, x = as_network(weights, SMALL), torch.randn(2, 3, 64, 64)
    reference = timm.create_model("lcnet_035", num_classes=11).eval()
    reference.load_state_dict(weights)
    assert torch.equal(found(x), reference(x))


def test_its_stages_can_be_tapped():
    out = look(build_student(SMALL, (), 11).eval(), ["body.blocks.2"], torch.zeros(2, 3, 64, 64))
    assert out[LOGITS].shape == (2, 11)
    assert out["body.blocks.2"].shape[2:] == (8, 8)


def test_it_is_packed_and_comes_back_with_nearly_equal_outputs(tmp_path):
    torch.manual_seed(5)
    student, x = build_student(SMALL, (), 11), torch.randn(8, 3, 64, 64)
    for _ in range(10):
        student(x)  # its norms have seen something
    config = Config.model_validate(recipe("record").model_dump() | {"student": {"name": SMALL}, "competition": "any"})
    pack(tmp_path / "student.kit", student.eval(), config, (), tuple("abcdefghijk"), {})
    packed = unpack(tmp_path / "student.kit")
    assert packed.parameters == count_parameters(student)
    assert (packed.student(x) - student(x)).abs().max() < 0.1 * student(x).std()


def test_wrong_names_widths_and_sizes_are_refused_with_the_remedy():
    with pytest.raises(KitError, match=r"no network 'lcnet_53'. Nearest: timm/lcnet"):
        build_student("timm/lcnet_53", (), 11)
    with pytest.raises(KitError, match=r"leave student\.widths empty"):
        build_student(SMALL, (8, 8), 11)
    with pytest.raises(KitError, match=r"can't be used at 96 px \(Input height"):
        refuse_unusable("timm/vit_tiny_patch16_224", build_student("timm/vit_tiny_patch16_224", (), 11), 96)
