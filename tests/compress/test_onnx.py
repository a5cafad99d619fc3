import pytest
import torch

from kit.compress.fold import fold
from kit.compress.onnx import runner, to_int8, write_onnx
from kit.models.students import STUDENTS, build_student

pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are not installed: the graphs are optional")


@pytest.mark.parametrize("name", [*STUDENTS, "resnet8x4", "timm/mobilenetv3_small_050"])
def test_a_graph_answers_as_the_student_does_for_any_number_of_photos(name):
    torch.manual_seed(0)
    folded = fold(build_student(name, (), 5).eval())
    run = runner(write_onnx(folded, 64), 1)
    for count in (1, 5):
        x = torch.randn(count, 3, 64, 64)
        assert torch.allclose(run(x), folded(x), atol=1e-4)


def test_int8_is_smaller_and_nearly_right():
    torch.manual_seed(0)
    student = build_student("hw13", (), 5)
    student.train()(torch.randn(64, 3, 64, 64))
    folded, batches = fold(student.eval()), [torch.randn(16, 3, 64, 64) for _ in range(2)]
    graph = write_onnx(folded, 64)
    small, x = to_int8(graph, iter(batches)), batches[0]
    assert len(small) < 0.5 * len(graph)
    off = (runner(small, 1)(x) - folded(x)).std() / folded(x).std()
    assert off < 0.2
