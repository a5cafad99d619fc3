"""The networks that the courses' solutions printed: counts, layer tables and sizes as they stand there."""

import re

import pytest
import torch

from kit.errors import KitError
from kit.models.cost import layer_rows
from kit.models.students import PRINTED, build_student, count_parameters, widths_of
from kit.models.teacher import build_teacher

PRINTED_ROW = re.compile(r"\s+(\w+)-\d+\s+\[1, ([\d, ]+)\]\s+([\d,]+)\s*")
MEBIBYTE = 2**20


@pytest.mark.parametrize("name", PRINTED)
def test_the_table_holds_the_exact_counts_and_widths(name):
    with torch.device("meta"):
        student = build_student(name, (), 11)
    assert count_parameters(student) == PRINTED[name].parameters
    assert widths_of(student) == PRINTED[name].widths


def test_the_published_counts_are_met():
    published = {"cnn-depthwise": 454_667, "cnn-deep": 1_083_595, "mobilenet": 1_618_763}
    assert {name: PRINTED[name].parameters for name in published} == published
    with torch.device("meta"):
        assert count_parameters(build_teacher("torchvision/resnet18", 11)) == 11_182_155
        assert count_parameters(build_student("timm/resnet18", (), 11)) == 11_182_155


def test_a_grouped_one_is_had_at_any_count_that_divides():
    narrow = build_student("cnn/2", (8, 16, 16, 32, 32), 5)
    assert [block[0].groups for block in narrow.cnn] == [1, 2, 2, 2, 2]
    assert widths_of(narrow) == (8, 16, 16, 32, 32)
    with pytest.raises(KitError, match=r"3 groups don't divide the widths \[8, 16\]"):
        build_student("cnn/3", (6, 8, 12, 16, 18), 5)


def test_the_maps_of_the_printed_one_take_the_185_mb_that_were_printed_with_it():
    """torchsummary's "forward/backward pass size": every output twice, float32, in MiB, at 256 px."""
    rows = layer_rows(build_student("cnn-depthwise", (), 11), 256)
    numbers = sum(torch.Size(shape).numel() for _, shape, _ in rows)
    assert round(2 * 4 * numbers / MEBIBYTE, 2) == 185.00


@pytest.mark.parametrize(("build", "total"), [("hw7", 256_779), ("torchvision/resnet18", 11_182_155)])
def test_the_layer_tables_are_those_that_seed_000_prints(build, total, real):
    """But for the mean over space, which the kit's own networks write out."""
    text = next((real / "seeds").glob("000_*")).read_text(encoding="utf-8")
    table = next(part for part in text.split("Total params: ")[:-1] if f"{total:,}" in text.split(part)[1][:40])
    rows = [PRINTED_ROW.fullmatch(line.rstrip("\n")) for line in table.splitlines()]
    printed = [(m[1], tuple(map(int, m[2].split(", "))), int(m[3].replace(",", ""))) for m in rows if m]
    model = build_teacher(build, 11) if "/" in build else build_student(build, (), 11)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    ours = [(kinds[name], shape, parameters) for name, shape, parameters in layer_rows(model, 256)]
    mean = lambda kind: kind == "AdaptiveAvgPool2d"  # noqa: E731
    assert [row for row in ours if not mean(row[0])] == [row for row in printed if not mean(row[0])]
    assert sum(parameters for _, _, parameters in ours) == total
