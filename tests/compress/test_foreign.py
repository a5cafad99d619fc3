import os
import pickle

import numpy as np
import pytest
import torch

from kit.compress.foreign import WRITERS, read_foreign, write_foreign
from kit.errors import KitError
from kit.models.students import build_student


@pytest.fixture
def weights():
    torch.manual_seed(5)
    state = build_student("hw7", (4, 4, 6, 6, 8, 8, 8, 8), 11).state_dict()
    state["cnn.0.1.num_batches_tracked"].fill_(123_456)  # more than float16 holds
    return state  # its batch norms are constant tensors


def close(one, other, relative):
    return all(torch.allclose(one[name].float(), tensor.float(), rtol=relative, atol=1e-7) for name, tensor in other.items())


@pytest.mark.parametrize(("form", "error"), [("ckpt", 0), ("hw7-16bit", 1e-3), ("safetensors", 0)])
def test_what_is_written_is_read_back(weights, form, error, tmp_path):
    size = write_foreign(tmp_path / "weights", form, weights)
    read = read_foreign(tmp_path / "weights")
    assert size == (tmp_path / "weights").stat().st_size
    assert read.weights.keys() == weights.keys()
    assert close(read.weights, weights, error)
    assert read.weights["cnn.0.1.num_batches_tracked"].dtype == torch.int64


def test_the_courses_8_bits_are_within_half_a_step_and_keep_constant_tensors(weights, tmp_path):
    write_foreign(tmp_path / "8.pkl", "hw7-8bit", weights)
    for name, tensor in read_foreign(tmp_path / "8.pkl").weights.items():
        step = (weights[name].max() - weights[name].min()).item() / 255
        assert (tensor - weights[name]).abs().max().item() <= 0.501 * step


@pytest.mark.parametrize("form", ["hw7-8bit", "hw7-16bit"])
def test_the_courses_own_code_reads_what_is_written(weights, form, tmp_path):
    """HW7's decode8 and decode16, with the plain unpickler that they use; older numpy knows no numpy._core."""
    write_foreign(tmp_path / "w.pkl", form, weights)
    assert b"_core" not in (tmp_path / "w.pkl").read_bytes()
    decoded = {}
    for name, value in pickle.loads((tmp_path / "w.pkl").read_bytes()).items():
        if isinstance(value, tuple):
            low, high, codes = value
            value = (np.float64(codes) / 255 * (high - low)) + low
        decoded[name] = torch.tensor(value)
    read = read_foreign(tmp_path / "w.pkl").weights
    assert all(torch.equal(decoded[name].float(), tensor.float()) for name, tensor in read.items())
    build_student("hw7", (4, 4, 6, 6, 8, 8, 8, 8), 11).load_state_dict(decoded)


def test_numbers_beyond_float16_are_refused_for_16_bits(weights, tmp_path):
    weights["cnn.0.1.running_var"].fill_(1e6)
    with pytest.raises(KitError, match=r"running_var holds 1,000,000.*--format ckpt"):
        write_foreign(tmp_path / "w.pkl", "hw7-16bit", weights)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrap", [dict, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"model": {f"module.{k}": v for k, v in w.items()}}]
)
def test_torchs_old_and_new_files_and_usual_wrappings_are_opened(weights, wrap, legacy, tmp_path):
    torch.save(wrap(weights), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert close(read_foreign(tmp_path / "w.pt").weights, weights, 0)


def test_weights_that_were_saved_on_a_gpu_are_read_without_one(tmp_path):
    """As a legacy file: its pickle names the device of each storage as text, so one from a GPU can be made here."""
    torch.save({"fc.bias": torch.arange(3.0)}, tmp_path / "cpu.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "cpu.pt").read_bytes()
    assert content.count(b"X\x03\x00\x00\x00cpu") == 1
    (tmp_path / "gpu.pt").write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert read_foreign(tmp_path / "gpu.pt").weights["fc.bias"].tolist() == [0, 1, 2]


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("content", [dict, list, lambda attack: {"w": (0.0, 1.0, attack["w"])}, lambda attack: attack["w"]])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_that_calls_anything_else_is_refused_and_not_run(content, protocol, tmp_path):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(content({"w": Attack(tmp_path / "owned")}), protocol))
    with pytest.raises(KitError, match=r"no pickle of numpy arrays|no weights by name"):
        read_foreign(tmp_path / "evil.pkl")
    assert not (tmp_path / "owned").exists()


def test_a_whole_pickled_model_is_refused_with_the_reason(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(torch.nn.Linear(2, 2)))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    for name in ("model.pkl", "model.pt"):
        with pytest.raises(KitError, match="whole pickled model would run code"):
            read_foreign(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([1j]),
        (0.0, 1.0, np.zeros(3)),
        (1.0, np.zeros(3, np.uint8)),
        [1, 2],
        "text",
        {"deeper": np.zeros(2)},
    ],
)
def test_other_things_than_numbers_are_refused(value, tmp_path):
    (tmp_path / "odd.pkl").write_bytes(pickle.dumps({"w": value}, 3))
    with pytest.raises(KitError, match=r"no pickle of numpy arrays|is neither an array"):
        read_foreign(tmp_path / "odd.pkl")


def test_arrays_in_fortrans_order_and_of_the_other_end_are_read(tmp_path):
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": array}, 3))
    assert read_foreign(tmp_path / "w.pkl").weights["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_missing_cut_and_other_files_are_named(weights, tmp_path):
    with pytest.raises(KitError, match="can't be read"):
        read_foreign(tmp_path / "none.pkl")
    for form in WRITERS:
        write_foreign(tmp_path / "whole", form, weights)
        (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:1500])
        with pytest.raises(KitError):
            read_foreign(tmp_path / "cut")


def test_hw7s_real_files_are_read(real):
    folder = real / "hw7"
    halves, bytes_, whole, later = (
        read_foreign(folder / name)
        for name in ("16_bit_model_final.pkl", "8_bit_model_final.pkl", "student_custom_small.bin", "hw13_2022_student_best.ckpt")
    )
    assert [f.kind for f in (halves, bytes_, whole)] == ["HW7 pickle, 16 bit", "HW7 pickle, 8 bit", "torch state dict"]
    assert [len(f.weights) for f in (halves, bytes_, whole, later)] == [81, 81, 72, 56]
    for name, tensor in bytes_.weights.items():  # one network in both
        step = np.ptp(tensor.numpy()) / 255
        assert (tensor.float() - halves.weights[name].float()).abs().max().item() <= 0.51 * step + 1e-3 * tensor.float().abs().max().item()
