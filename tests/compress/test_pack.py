import hashlib
import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from kit.compress.pack import MAGIC, deflate, pack, split, unpack
from kit.config.recipes import recipe
from kit.config.schema import Config
from kit.errors import KitError
from kit.models.students import CIFAR, STUDENTS, build_student, count_parameters, widths_of
from kit.models.weights import read_weights

CLASSES = tuple("abcdefghijk")


def packed_file(path, name="record", widths=(), **how):
    """A student that looks trained, packed; returns it as it was."""
    torch.manual_seed(0)
    student = build_student(name, widths, 11)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias, std=0.2)
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.3, 3)
    for conv in [m for m in student.modules() if isinstance(m, nn.Conv2d)]:
        nn.init.kaiming_normal_(conv.weight)  # torch's uniform ones have no entropy to save
    config = Config.model_validate(recipe("record").model_dump() | {"student": {"name": name}, "pack": how})
    pack(path, student.eval(), config, widths_of(student), CLASSES, {"accuracy": 0.5})
    return student


@pytest.mark.parametrize("name", STUDENTS)
def test_a_packed_student_comes_back_folded_with_nearly_equal_outputs(name, tmp_path):
    student = packed_file(tmp_path / "student.kit", name)
    packed, x = unpack(tmp_path / "student.kit"), torch.randn(8, 3, 64, 64)
    assert (packed.classes, packed.notes, packed.config.student.name) == (CLASSES, {"accuracy": 0.5}, name)
    assert (packed.student(x) - student(x)).abs().max().item() < 0.1 * student(x).std().item() + 1e-3
    assert not packed.student.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in packed.student.modules())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in packed.student.parameters() if p.ndim == 4)


@pytest.mark.parametrize("name", ["preresnet8x4", "timm/resnet10t", "timm/mobilenetv3_small_050"])
def test_a_pruned_network_of_another_table_is_packed_by_name_and_widths(name, tmp_path):
    """timm's activations may be inside a norm that is folded away; a choice of channels has to come back too."""
    widths = [max(1, width // 4) for width in widths_of(build_student(name, (), 11))]
    student = packed_file(tmp_path / "student.kit", name, widths)
    packed, x = unpack(tmp_path / "student.kit"), torch.randn(8, 3, 64, 64)
    assert (packed.student(x) - student(x)).abs().max().item() < 0.1 * student(x).std().item() + 1e-3
    assert widths_of(packed.student) == tuple(widths)
    assert (packed.parameters, packed.config.student.name) == (count_parameters(student), name)


def test_a_choice_of_channels_comes_back(tmp_path):
    widths = [width // 4 for width in CIFAR["preresnet8x4"].widths]
    widths[1] = 3
    student = build_student("preresnet8x4", widths, 11).eval()
    student.layer1[0].select.index.copy_(torch.tensor([0, 4, 7]))
    config = Config.model_validate(recipe("record").model_dump() | {"student": {"name": "preresnet8x4"}})
    pack(tmp_path / "student.kit", student, config, widths_of(student), CLASSES, {})
    assert unpack(tmp_path / "student.kit").student.layer1[0].select.index.tolist() == [0, 4, 7]


@pytest.mark.parametrize("name", STUDENTS)
def test_the_count_that_limits_are_held_against_is_the_trained_networks(name, tmp_path):
    student = packed_file(tmp_path / "student.kit", name)
    packed = unpack(tmp_path / "student.kit")
    assert packed.parameters == count_parameters(student) == STUDENTS[name].parameters
    assert count_parameters(packed.student) <= packed.parameters
    assert widths_of(packed.student) == STUDENTS[name].widths


@pytest.mark.parametrize("method", ["affine", "symmetric", "codebook"])
def test_fewer_bits_make_a_smaller_file_of_the_same_network(method, tmp_path):
    sizes = []
    for bits in range(2, 9):
        packed_file(tmp_path / f"{bits}.kit", method=method, bits=bits)
        sizes.append((tmp_path / f"{bits}.kit").stat().st_size)
        assert unpack(tmp_path / f"{bits}.kit").student(torch.zeros(1, 3, 64, 64)).isfinite().all()
    assert sizes == sorted(sizes)
    assert sizes[-1] <= (63_000 if method == "codebook" else 62_000)  # 256 centres for a tensor of 864 weights save nothing
    assert sizes[2] <= (33_500 if method == "codebook" else 33_000)


def test_the_courses_method_stores_the_trained_network_and_its_own_codes(tmp_path):
    student, x = packed_file(tmp_path / "student.kit", method="course"), torch.randn(4, 3, 64, 64)
    for tensor in student.state_dict().values():
        if tensor.is_floating_point():
            low, high = tensor.double().min(), tensor.double().max()
            tensor.copy_((tensor.double() - low).div(high - low).mul(255).round() / 255 * (high - low) + low)
    assert torch.allclose(unpack(tmp_path / "student.kit").student(x), student(x), atol=1e-4)


def test_half_stores_every_weight_in_two_bytes(tmp_path):
    student, x = packed_file(tmp_path / "student.kit", method="half", bits=16), torch.randn(4, 3, 64, 64)
    packed = unpack(tmp_path / "student.kit")
    assert (packed.student(x) - student(x)).abs().max().item() < 0.01 * student(x).std().item()
    folded = sum(p.numel() for p in packed.student.parameters())
    assert 1.6 * folded < (tmp_path / "student.kit").stat().st_size < 2.2 * folded


def test_hw7s_real_student_at_the_courses_bits_is_smaller_than_its_pickle(real, tmp_path):
    """The course's file has 268,471 bytes; its codes' order-0 entropy is 220,090."""
    student, file = build_student("hw7", (), 11), tmp_path / "student.kit"
    student.load_state_dict(read_weights(real / "hw7" / "student_custom_small.bin"))
    config = Config.model_validate(recipe("record").model_dump() | {"student": {"name": "hw7"}, "pack": {"method": "course"}})
    assert pack(file, student, config, widths_of(student), CLASSES, {}) <= 227_000


def test_biases_too_large_for_float16_are_kept_in_float32(tmp_path):
    student = build_student("record", (), 11).eval()
    nn.init.constant_(student.fc.bias, 1e6)
    pack(tmp_path / "student.kit", student, recipe("sample"), widths_of(student), CLASSES, {})
    assert (unpack(tmp_path / "student.kit").student.fc.bias == 1e6).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_student_whose_training_broke_is_not_packed(broken, tmp_path):
    student = build_student("even", (), 6).eval()
    student.blocks[0].pointwise.weight.data[3, 2] = broken
    with pytest.raises(KitError, match=r"blocks\.0\.pointwise\.weight holds NaN or an infinite number"):
        pack(tmp_path / "s.kit", student, recipe("record"), widths_of(student), tuple("abcdef"), {})
    assert not (tmp_path / "s.kit").exists()


def test_reading_draws_no_random_number(tmp_path):
    packed_file(tmp_path / "student.kit")
    state = torch.get_rng_state()
    unpack(tmp_path / "student.kit")
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_students_give_equal_bytes(tmp_path):
    packed_file(tmp_path / "a.kit")
    packed_file(tmp_path / "b.kit")
    assert (tmp_path / "a.kit").read_bytes() == (tmp_path / "b.kit").read_bytes()


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path):
    packed_file(tmp_path / "student.kit")
    whole, bad = (tmp_path / "student.kit").read_bytes(), tmp_path / "bad.kit"
    for at in [*range(60), *range(60, len(whole), len(whole) // 150), len(whole) - 1]:
        content = bytearray(whole)
        content[at] ^= 1 << (at % 8)
        bad.write_bytes(content)
        with pytest.raises(KitError, match=r"damaged|no packed student|another version"):
            unpack(bad)
    for length in (0, 5, 20, 1_000, len(whole) - 1):
        bad.write_bytes(whole[:length])
        with pytest.raises(KitError, match=r"damaged|no packed student"):
            unpack(bad)


def test_another_version_and_another_kind_of_file_are_told_apart(tmp_path):
    packed_file(tmp_path / "student.kit")
    whole = (tmp_path / "student.kit").read_bytes()
    (tmp_path / "other.kit").write_bytes(b"PK\x03\x04" + whole)
    for version in (b"1", b"3"):
        (tmp_path / "version.kit").write_bytes(b"KITPACK" + version + whole[8:])
        with pytest.raises(KitError, match="another version"):
            unpack(tmp_path / "version.kit")
    with pytest.raises(KitError, match="no packed student"):
        unpack(tmp_path / "other.kit")
    with pytest.raises(KitError, match="can't be read"):
        unpack(tmp_path / "none.kit")


def rewritten(whole, change):
    """The file with another header, and a digest that fits: it is no signature, anyone can write one."""
    header, body = split(whole[40:])
    content = deflate(json.dumps(change(header)).encode())
    rest = len(content).to_bytes(4, "little") + content + body
    return MAGIC + hashlib.sha256(rest).digest() + rest


CHANGES = [
    lambda header: {},
    lambda header: [],
    lambda header: header | {"config": {"recipe": "x"}},
    lambda header: header | {"widths": [1, 2]},
    lambda header: header | {"widths": [10**9] * 7},
    lambda header: header | {"widths": [-1] * 7},
    lambda header: header | {"classes": CLASSES[:3]},
    lambda header: header | {"tensors": header["tensors"][1:]},
    lambda header: header | {"vectors": {"f8": ["bits", 10]}},
    lambda header: header | {"vectors": {"f2": ["zip", 10]}},
    lambda header: header | {"tensors": [entry | {"shape": [10**6, 10**6]} for entry in header["tensors"]]},
    lambda header: header | {"tensors": [entry | {"shape": [-1], "coder": "lzma"} for entry in header["tensors"]]},
    lambda header: header | {"tensors": [entry | {"bits": 0} for entry in header["tensors"]]},
    lambda header: header | {"tensors": [entry | {"vectors": [["f2", 10**10]]} for entry in header["tensors"]]},
    lambda header: header | {"tensors": [entry | {"coder": "pickle"} for entry in header["tensors"]]},
    lambda header: header | {"tensors": [entry | {"stored": "codebook"} for entry in header["tensors"]]},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_whole_file_that_is_no_student_is_refused_in_words(change, tmp_path):
    packed_file(tmp_path / "student.kit")
    (tmp_path / "odd.kit").write_bytes(rewritten((tmp_path / "student.kit").read_bytes(), change))
    with pytest.raises(KitError, match="can rebuild"):
        unpack(tmp_path / "odd.kit")


def test_a_pickle_is_no_packed_student_and_is_not_run(tmp_path):
    """HW7's own files are pickles of strangers."""

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (tmp_path / "8_bit_model_final.pkl").write_bytes(pickle.dumps({"cnn.0.0.weight": Attack()}))
    with pytest.raises(KitError, match="no packed student"):
        unpack(tmp_path / "8_bit_model_final.pkl")
    assert not (tmp_path / "owned").exists()


def test_reading_a_packed_file_needs_no_pickle(tmp_path):
    """In a process where unpickling anything is an error."""
    packed_file(tmp_path / "student.kit")
    program = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "from kit.compress.pack import unpack\n"
        "def refuse(*_, **__): raise SystemExit('a pickle was read')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "unpack(Path(sys.argv[1]))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "student.kit")], check=True)
