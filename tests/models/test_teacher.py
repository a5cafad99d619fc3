import sys

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from kit.errors import KitError
from kit.files import sha256_of
from kit.models.students import count_parameters
from kit.models.teacher import build_teacher, load_teacher, start_from_pretrained
from kit.models.weights import read_weights

ARCHS = ("torchvision/resnet18", "timm/resnet18")


@pytest.fixture(scope="module")
def weights():
    return torchvision.models.resnet18(num_classes=11).state_dict()


@pytest.mark.parametrize("arch", ARCHS)
def test_torchvision_and_timm_read_the_same_file_to_the_same_outputs(weights, tmp_path, arch):
    torch.save(weights, tmp_path / "teacher.ckpt")
    model, x = load_teacher(tmp_path / "teacher.ckpt", arch, 11), torch.randn(2, 3, 64, 64)
    reference = torchvision.models.resnet18(num_classes=11).eval()
    reference.load_state_dict(weights)
    assert count_parameters(model) == 11_182_155
    assert torch.allclose(model(x), reference(x), atol=1e-5)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"model": {f"module.{k}": v for k, v in w.items()}},
        lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}},
        lambda w: {"model_state_dict": {f"module._orig_mod.{k}": v for k, v in w.items()}, "epoch": 3},
    ],
)
def test_usual_wrappings_of_a_state_dict_are_opened(weights, tmp_path, wrap):
    torch.save(wrap(weights), tmp_path / "teacher.ckpt")
    assert read_weights(tmp_path / "teacher.ckpt").keys() == weights.keys()


def test_a_safetensors_file_teaches_and_a_cut_one_is_named(weights, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(weights, file)
    assert torch.equal(load_teacher(file, ARCHS[0], None).fc.weight, weights["fc.weight"])
    file.write_bytes(file.read_bytes()[:-1])
    refused(file, "model.safetensors is no whole safetensors file")


@pytest.mark.skipif(sys.platform != "linux", reason="has a file that no disk can read: /proc/self/mem, from its beginning")
def test_a_file_that_the_disk_can_not_read_is_not_called_damaged(tmp_path):
    (tmp_path / "teacher.ckpt").symlink_to("/proc/self/mem")
    refused(tmp_path / "teacher.ckpt", "teacher.ckpt can't be read (Input/output error). Bring its disk or mount back")


def test_two_networks_in_one_file_keep_their_names(tmp_path):
    both = {"fc.bias": torch.zeros(2), "module.fc.bias": torch.ones(2)}
    torch.save(both, tmp_path / "both.ckpt")
    assert read_weights(tmp_path / "both.ckpt").keys() == both.keys()


def refused(file, words, arch=ARCHS[0]):
    with pytest.raises(KitError) as error:
        load_teacher(file, arch, 11)
    assert words in str(error.value)


def test_a_teacher_with_another_number_of_outputs_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "ten.ckpt")
    refused(tmp_path / "ten.ckpt", "has 10 outputs, the data has 11 classes")


def test_another_architecture_is_refused(tmp_path):
    torch.save(torchvision.models.resnet34(num_classes=11).state_dict(), tmp_path / "deep.ckpt")
    refused(tmp_path / "deep.ckpt", "is no torchvision/resnet18")
    refused(tmp_path / "deep.ckpt", "Give a ResNet-18's state dict")  # another teacher.arch names the same tensors


def test_a_whole_pickled_model_is_refused_and_not_run(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.ckpt")
    refused(tmp_path / "whole.ckpt", "whole pickled model would run code")


def test_a_missing_a_cut_and_a_foreign_file_are_refused(weights, tmp_path):
    refused(tmp_path / "none.ckpt", "no teacher file")
    torch.save(weights, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:100_000])
    refused(tmp_path / "cut.ckpt", "can be read safely")
    (tmp_path / "text.ckpt").write_text("hello")
    refused(tmp_path / "text.ckpt", "can be read safely")


def test_a_flipped_bit_in_the_weights_is_noticed(weights, tmp_path):
    """torch.load would take it for a weight."""
    torch.save(weights, tmp_path / "teacher.ckpt")
    whole, at = (tmp_path / "teacher.ckpt").read_bytes(), 20_000_000
    (tmp_path / "teacher.ckpt").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
    torch.load(tmp_path / "teacher.ckpt", weights_only=True)
    refused(tmp_path / "teacher.ckpt", "is damaged (Bad CRC-32")


def test_a_checkpoint_without_checksums_is_read(weights, tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "teacher.ckpt")
    finally:
        torch.serialization.set_crc32_options(computed)
    assert read_weights(tmp_path / "teacher.ckpt").keys() == weights.keys()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path, legacy):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"fc.bias": Attack()}, tmp_path / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "evil.ckpt", "can be read safely")
    assert not (tmp_path / "owned").exists()


def test_pretrained_weights_are_taken_from_disk_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = build_teacher(ARCHS[0], 11)
    assert start_from_pretrained(model) is None
    imagenet = torchvision.models.resnet18()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    unnamed = tmp_path / "weights"
    torch.save(imagenet.state_dict(), unnamed)
    file = unnamed.rename(tmp_path / "hub" / "checkpoints" / f"resnet18-{sha256_of(unnamed)[:8]}.pth")
    assert start_from_pretrained(model) == file
    assert torch.equal(model.layer3[0].conv1.weight, imagenet.layer3[0].conv1.weight)
    file.rename(file.with_name("resnet18-f37072fd.pth"))
    with pytest.raises(KitError, match="its sha256 is not its name's"):
        start_from_pretrained(model)


def test_the_courses_teacher_loads_as_it_is(real):
    assert not load_teacher(real / "food101-regrouped" / "resnet18_teacher.ckpt", ARCHS[0], 11).training
