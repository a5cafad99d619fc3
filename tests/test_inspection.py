import pytest
import torch
from rich.table import Table

from kit.compress.fold import fold
from kit.compress.foreign import write_foreign
from kit.compress.pack import pack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.console import Log, console
from kit.errors import KitError
from kit.inspection import inspect
from kit.models.recognise import recognise
from kit.models.students import STUDENTS, build_student, count_parameters, widths_of
from kit.models.teacher import build_teacher
from kit.train.checkpoint import Checkpoints

CLASSES = tuple("abcdefghijk")


def rows(table):
    return [list(cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]


def packed(path, method="affine"):
    student = build_student("record", (), 11).eval()
    config = override(recipe("record"), ["student.name=record", f"pack.method={method}"])
    pack(path, student, config, widths_of(student), CLASSES, {})
    return path


@pytest.mark.parametrize("method", ["affine", "course"])
def test_the_parts_of_a_packed_student_add_up_to_its_file(method, tmp_path):
    file = packed(tmp_path / "student.kit", method)
    table, summary = inspect(file, 96)
    assert isinstance(table, Table)
    total = rows(table)[-1]
    assert total[5] == f"{file.stat().st_size:,}"
    assert total[2] == ("59,451" if method == "course" else "58,387")
    assert "59,451 parameters as trained, 58,387 folded" in summary


@pytest.mark.parametrize(("method", "bits", "says"), [("affine", 8, "affine 8 bit"), ("half", 16, "half 16 bit, f2")])
def test_which_channels_a_selection_keeps_is_no_parameter_of_either_file(method, bits, says, tmp_path):
    student = build_student("preresnet8x4", (), 11).eval()
    config = override(recipe("record"), ["student.name=preresnet8x4", f"pack.method={method}", f"pack.bits={bits}"])
    pack(tmp_path / "student.kit", student, config, widths_of(student), CLASSES, {})
    table, _ = inspect(tmp_path / "student.kit", 32)
    assert rows(table)[-1][2] == f"{count_parameters(fold(student)):,}"
    assert rows(table)[0][4].startswith(says)
    write_foreign(tmp_path / "w.ckpt", "ckpt", student.state_dict())
    assert f"preresnet8x4, {count_parameters(student):,} parameters" in list(inspect(tmp_path / "w.ckpt", 32))[-1]


SAME = {"even": "record", "record": "record"}  # one shape in other widths


@pytest.mark.parametrize("name", STUDENTS)
def test_a_students_checkpoint_is_recognised_whatever_its_widths(name, tmp_path):
    wide = STUDENTS[name].widths
    widths = tuple(w // 2 for w in wide)
    for chosen in (wide, widths):
        weights = build_student(name, chosen, 7).state_dict()
        write_foreign(tmp_path / "w.ckpt", "ckpt", weights)
        assert next(recognise(dict(reversed(weights.items()))))[0] == SAME.get(name, name)  # in whatever order a file has them
        called = "record or even (one shape)" if name in SAME else name
        assert f"torch state dict, {called}," in list(inspect(tmp_path / "w.ckpt", 64))[-1]


def test_layers_are_listed_in_the_networks_order_and_not_the_files(tmp_path):
    weights = build_student("gated", (), 7).state_dict()
    tables = []
    for form in ("ckpt", "safetensors"):
        write_foreign(tmp_path / form, form, weights)
        tables.append([row[0] for row in rows(next(iter(inspect(tmp_path / form, 64))))])
    assert tables[0] == tables[1]


def test_a_teacher_is_recognised_and_a_stranger_is_listed_without_macs(tmp_path):
    write_foreign(tmp_path / "teacher.ckpt", "ckpt", build_teacher("torchvision/resnet18", 11).state_dict())
    table, summary = inspect(tmp_path / "teacher.ckpt", 224)
    assert "torchvision/resnet18, 11,182,155 parameters" in summary
    assert rows(table)[-1][3] == f"{1_814_073_344 - 989 * 512:,}"  # torchvision's count for 1,000 classes
    write_foreign(tmp_path / "odd.pkl", "hw7-8bit", {"a.weight": torch.randn(4, 3), "b": torch.randn(2)})
    table, summary = inspect(tmp_path / "odd.pkl", None)
    assert "HW7 pickle, 8 bit, unknown network, 14 parameters" in summary
    assert [row[:4] for row in rows(table)] == [["a", "4×3", "12", "?"], ["", "", "2", "?"], ["in all", "", "14", "?"]]


def test_a_strangers_names_are_shown_as_they_are(tmp_path):
    write_foreign(tmp_path / "w.ckpt", "ckpt", {"[red]a[/red].weight": torch.randn(4, 3), "[/b].weight": torch.randn(2)})
    table, _ = inspect(tmp_path / "w.ckpt", None)
    with console.capture() as shown:
        console.print(table)
    assert "[red]a[/red]" in shown.get()
    assert "[/b]" in shown.get()


def test_a_runs_folder_stands_for_its_packed_student(tmp_path):
    file = packed(tmp_path / "student.kit")
    assert list(inspect(tmp_path, None))[-1] == list(inspect(file, None))[-1]
    file.unlink()
    with pytest.raises(KitError, match=r"student\.kit can't be read: No such file"):
        list(inspect(tmp_path, None))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KitError, match="can't be read"):
        list(inspect(tmp_path / "none.kit", None))


def test_a_runs_own_checkpoint_is_listed_and_a_damaged_one_named(tmp_path):
    student = build_student("hw13", (), 11)
    state = {"best": {"weights": student.state_dict(), "accuracy": 0.5, "epoch": 1}}
    file = Checkpoints(tmp_path, "finetune2", {}, {}, Log(silent=True)).finish(9, state)
    assert "checkpoint of finetune2 at step 9 (its result, best weights), hw13, 59,723 parameters" in list(inspect(file, 64))[-1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(KitError, match="is damaged"):
        list(inspect(file, None))
