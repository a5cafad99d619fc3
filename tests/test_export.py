import re
import sys

import pytest
import torch

from kit.compress.foreign import read_foreign, write_foreign
from kit.compress.pack import pack, unpack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.console import Log
from kit.errors import KitError
from kit.export import export, measured
from kit.models.students import build_student, widths_of
from kit.models.teacher import build_teacher
from kit.stages.known import labelled_for
from kit.stages.weights import find_weights, understand
from kit.train.checkpoint import Checkpoints


def packed_run(out):
    out.mkdir(exist_ok=True)
    student = build_student("record", (), 11).eval()
    pack(out / "student.kit", student, recipe("sample"), widths_of(student), tuple("abcdefghijk"), {})
    return student


def said_by(source, form, out, data=None, cache=None, name=None, assignments=()):
    return "\n".join(export(source, form, out, data, cache, name, list(assignments)))


def test_a_packed_student_is_exported_in_the_shape_that_is_trained(tmp_path):
    packed_run(tmp_path / "run")
    said = said_by(tmp_path / "run" / "student.kit", "ckpt", tmp_path / "w.ckpt")
    again, x = build_student("record", (), 11).eval(), torch.randn(4, 3, 64, 64)
    again.load_state_dict(torch.load(tmp_path / "w.ckpt", weights_only=True))
    assert torch.allclose(again(x), unpack(tmp_path / "run" / "student.kit").student(x), atol=1e-4)
    assert f"{(tmp_path / 'w.ckpt').stat().st_size:,} bytes" in said


def test_a_run_gives_its_best_trained_weights_and_not_the_packed_ones(tmp_path):
    student = packed_run(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run", "distil", {}, recipe("sample").model_dump(mode="json"), Log(silent=True))
    checkpoints.finish(9, {"best": {"weights": student.state_dict(), "accuracy": 0.5, "epoch": 1}})
    said = said_by(tmp_path / "run", "ckpt", tmp_path / "w.ckpt")
    assert "of distil-000000009-done-" in said
    read = read_foreign(tmp_path / "w.ckpt").weights
    assert all(torch.equal(read[name], tensor) for name, tensor in student.state_dict().items())


def test_a_run_without_checkpoints_gives_its_packed_student(tmp_path):
    packed_run(tmp_path / "run")
    assert "student.kit" in said_by(tmp_path / "run", "hw7-8bit", tmp_path / "w.pkl")


def test_a_strangers_file_is_brought_into_another_format(tmp_path):
    write_foreign(tmp_path / "w.pkl", "hw7-16bit", {"a.weight": torch.ones(2, 2)})
    said_by(tmp_path / "w.pkl", "ckpt", tmp_path / "new" / "w.ckpt")
    assert read_foreign(tmp_path / "new" / "w.ckpt").weights["a.weight"].tolist() == [[1, 1], [1, 1]]


def test_what_is_set_is_looked_at_in_every_format(tmp_path):
    packed_run(tmp_path / "run")
    for name, assignments, words in (("nonsense", [], "nonsense"), (None, ["train.foo=3"], "train.foo")):
        with pytest.raises(KitError, match=words):
            said_by(tmp_path / "run", "ckpt", tmp_path / "w.ckpt", None, tmp_path, name, assignments)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(KitError, match=r"neither a checkpoint of a student nor a student.kit"):
        said_by(tmp_path, "ckpt", tmp_path / "w")


def test_a_graph_needs_onnx_and_int8_needs_photos_and_both_say_so(tmp_path, monkeypatch):
    packed_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    with pytest.raises(KitError, match="pip install onnx onnxruntime"):
        said_by(tmp_path / "run", "onnx", tmp_path / "w.onnx")


def test_graphs_are_exported_and_int8_is_measured_on_validation(tmp_path, drawn):
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are not installed: int8 of activations is optional")
    student = build_student("record", (), 6).eval()
    config = override(recipe("record"), ["data.image_size=32", "data.cache_size=32", "competition=any", "student.name=record"])
    pack(tmp_path / "student.kit", student, config, widths_of(student), tuple("012345"), {})
    assert "record at 32 px" in said_by(tmp_path / "student.kit", "onnx", tmp_path / "w.onnx")
    with pytest.raises(KitError, match="give --data"):
        said_by(tmp_path / "student.kit", "onnx-int8", tmp_path / "w8.onnx")
    said = said_by(tmp_path / "student.kit", "onnx-int8", tmp_path / "w8.onnx", drawn, tmp_path / "cache")
    assert "int8: validation accuracy" in said
    assert (tmp_path / "w8.onnx").stat().st_size < (tmp_path / "w.onnx").stat().st_size


@pytest.mark.parametrize("fit", [True, False])
def test_a_graphs_accuracy_on_photos_that_its_student_was_trained_on_is_said_to_be_that(fit, drawn, tmp_path):
    student, config = build_student("record", (), 6).eval(), override(recipe("sample").tiny(), [f"train.final_fit={fit}"])
    photos = labelled_for(tmp_path, 6, drawn, config, tmp_path / "cache").validation
    with torch.no_grad():
        said = measured(student, photos, config)
    mark = re.fullmatch(r"validation accuracy [01]\.\d{4}(.*), \d+ images/s", said)[1]
    assert mark == (" on photos that it was trained on (train.final_fit)" if fit else "")


def test_a_checkpoint_by_itself_knows_as_much_as_its_run(tmp_path):
    """Its config, image size among it, and classes: `kit compress` and `kit export` measure with them."""
    student = packed_run(tmp_path / "run")
    config = override(recipe("record"), ["data.image_size=64", "data.unlabelled=true"])
    checkpoints = Checkpoints(tmp_path / "run", "distil", {}, config.model_dump(mode="json"), Log(silent=True))
    file = checkpoints.finish(9, {"best": {"weights": student.state_dict(), "accuracy": 0.5, "epoch": 1}})
    alone, run = find_weights(file), find_weights(tmp_path / "run")
    assert alone.config == run.config == config
    assert alone.classes == run.classes == unpack(tmp_path / "run" / "student.kit").classes
    teacher = Checkpoints(tmp_path / "run", "teacher", {}, config.model_dump(mode="json"), Log(silent=True))
    weights = build_teacher("timm/resnet18", 11).state_dict()
    known = understand(find_weights(teacher.finish(9, {"weights": weights})), None, [])[1]
    assert (known.student.name, known.data.image_size, known.train) == ("timm/resnet18", 64, config.train)
    on_grid = Checkpoints(tmp_path / "run", "qat", {}, config.model_dump(mode="json"), Log(silent=True))
    with pytest.raises(KitError, match=r"layers that only packing knows\. Give its run's folder"):
        find_weights(on_grid.finish(9, {"weights": weights}))
