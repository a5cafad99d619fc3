import hashlib
import json
import lzma
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from kit.compress.pack import FILTERS, dequantize, pack, quantize, unpack
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.models.students import STUDENTS, build_student, count_parameters, widths_of

CLASSES = tuple("abcdefghijk")


def packed_file(path, name="record"):
    torch.manual_seed(0)
    student = build_student(name, (), 11).eval()
    config = recipe("record").model_copy(update={"student": recipe("record").student.model_copy(update={"name": name})})
    pack(path, student, config, widths_of(student), CLASSES, {"accuracy": 0.5})
    return student


@pytest.mark.parametrize("name", STUDENTS)
def test_a_packed_student_comes_back_with_nearly_equal_outputs(name, tmp_path):
    student = packed_file(tmp_path / "student.kit", name)
    packed, x = unpack(tmp_path / "student.kit"), torch.randn(8, 3, 64, 64)
    assert count_parameters(packed.student) == count_parameters(student)
    assert (packed.classes, packed.notes, packed.config.student.name) == (CLASSES, {"accuracy": 0.5}, name)
    spread = student(x).std().item()
    assert (packed.student(x) - student(x)).abs().max().item() < 0.1 * spread + 1e-3
    assert not packed.student.training


def test_every_weight_is_within_half_a_step(tmp_path):
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-3, 1, 8).view(-1, 1, 1, 1)
    codes, scale, offset = quantize(weight)
    error = np.abs(dequantize(codes, scale, offset) - weight.numpy()).reshape(8, -1).max(1)
    assert codes.dtype == np.uint8
    assert (error <= 0.51 * scale.astype(np.float32) + 2e-3 * np.abs(offset.astype(np.float32))).all()


def test_a_constant_tensor_divides_by_nothing():
    for value in (0.0, 0.75):
        restored = dequantize(*quantize(torch.full((3, 2, 1, 1), value)))
        assert (restored == value).all()


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
    (tmp_path / "later.kit").write_bytes(b"KITPACK2" + whole[8:])
    (tmp_path / "other.kit").write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(KitError, match="another version"):
        unpack(tmp_path / "later.kit")
    with pytest.raises(KitError, match="no packed student"):
        unpack(tmp_path / "other.kit")
    with pytest.raises(KitError, match="can't be read"):
        unpack(tmp_path / "none.kit")


def test_a_whole_file_that_is_no_student_is_refused_in_words(tmp_path):
    """The digest is no signature: anyone can write one that fits."""
    for fields in ({}, {"config": {"recipe": "x"}, "widths": [], "classes": [], "tensors": [], "notes": {}}):
        header = json.dumps(fields).encode()
        rest = len(header).to_bytes(4, "little") + header + lzma.compress(b"", lzma.FORMAT_RAW, filters=FILTERS)
        (tmp_path / "odd.kit").write_bytes(b"KITPACK1" + hashlib.sha256(rest).digest() + rest)
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
