import pytest
import torch
from conftest import as_folders
from torch import nn

from kit.compress.foreign import write_foreign
from kit.compress.pack import unpack
from kit.compression import Limits, parse_limits
from kit.compression import compress as bring_under
from kit.config.schema import Student
from kit.errors import KitError
from kit.inspection import inspect
from kit.models.cost import count_macs
from kit.models.students import build_student, count_parameters, widths_of
from kit.stages.weights import Found, understand

SMALL = ["data.image_size=32", "data.cache_size=32", "train.batch_size=16"]


def compress(source, to, out, data, cache, name=None, assignments=(), by="channels"):
    return bring_under(source, to, out, data, cache, name, list(assignments), by)


def student_file(path, name="hw13", classes=6):
    torch.manual_seed(0)
    student = build_student(name, (), classes)
    for norm in [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.1, 2)
    write_foreign(path, "ckpt", student.state_dict())
    return path


def test_limits_are_numbers_with_a_unit():
    assert parse_limits(["60000params", "4bit"]) == Limits(parameters=60_000, bits=4)
    assert parse_limits(["1.5kB", "20MMACs"]) == Limits(bytes=1_500, macs=20_000_000)
    assert parse_limits(["60000params", "20000params", "30000params", "8bit", "8bit"]) == Limits(parameters=20_000, bits=8)
    with pytest.raises(KitError, match="8 bits are asked for as well"):
        parse_limits(["8bit", "4bit"])
    for word in ("60000", "4bits", "9bit", "-3kB", "0params", "0kB", "0.0MB", "2.7bit", "_params", "60__0params", "1.2345kB"):
        with pytest.raises(KitError, match="--to"):
            parse_limits([word])


def test_fewer_bits_come_before_fewer_channels_and_need_no_photos(tmp_path):
    out = tmp_path / "new" / "s.kit"
    said = list(compress(student_file(tmp_path / "w.ckpt"), ["40kB"], out, None, tmp_path))
    packed = unpack(out)
    assert (packed.config.pack.bits, packed.parameters) == (5, count_parameters(build_student("hw13", (), 6)))
    assert out.stat().st_size <= 40_000
    assert "at 5 bits, all parameters" in said[-1]


def test_few_bits_and_fused_branches_are_no_reason_to_ask_for_photos(tmp_path):
    list(compress(student_file(tmp_path / "w.ckpt"), ["3bit"], tmp_path / "s.kit", None, tmp_path))
    *_, said = compress(tmp_path / "s.kit", ["500kB"], tmp_path / "t.kit", None, tmp_path)
    assert "at 3 bits, all parameters" in said
    list(compress(student_file(tmp_path / "b.ckpt", "branched"), ["8bit"], tmp_path / "b.kit", None, tmp_path))
    list(compress(tmp_path / "b.kit", ["4bit"], tmp_path / "c.kit", None, tmp_path))
    assert unpack(tmp_path / "c.kit").config.student.name == "branched"


def test_photos_that_are_too_small_for_a_student_are_refused(tmp_path):
    with pytest.raises(KitError, match="'hw13' can't be used at 16 px"):
        list(compress(student_file(tmp_path / "w.ckpt"), ["3MMACs"], tmp_path / "s.kit", None, tmp_path, None, ["data.image_size=16"]))
    with pytest.raises(KitError, match="'hw13' can't be used at 16 px"):
        list(inspect(tmp_path / "w.ckpt", 16))


def test_pruning_keeps_every_limit_with_the_photos_that_it_is_given(tmp_path, drawn):
    source = student_file(tmp_path / "w.ckpt")
    *_, said = compress(source, ["40000params", "3MMACs", "6bit"], tmp_path / "s.kit", drawn, tmp_path / "cache", None, SMALL)
    packed = unpack(tmp_path / "s.kit")
    assert packed.parameters <= 40_000
    assert sum(count_macs(packed.student, 32).values()) <= 3_000_000
    assert packed.classes == tuple("012345")
    assert "validation accuracy" in said


def test_bytes_that_four_bits_do_not_reach_are_reached_by_pruning(tmp_path, drawn):
    list(compress(student_file(tmp_path / "w.ckpt"), ["20kB"], tmp_path / "s.kit", drawn, tmp_path / "cache", None, SMALL))
    assert 19_000 < (tmp_path / "s.kit").stat().st_size <= 20_000
    list(compress(tmp_path / "s.kit", ["15000params"], tmp_path / "t.kit", drawn, tmp_path / "cache"))  # and again, from the packed one
    assert unpack(tmp_path / "t.kit").parameters <= 15_000


def test_batch_norms_that_are_measured_anew_take_no_byte_more_than_was_asked_for(tmp_path, drawn):
    list(compress(student_file(tmp_path / "w.ckpt"), ["14997B"], tmp_path / "s.kit", drawn, tmp_path / "cache", None, SMALL))
    assert 14_500 < (tmp_path / "s.kit").stat().st_size <= 14_997  # it was 14,999 before they were measured


def test_photos_of_other_classes_do_not_measure_it(tmp_path, drawn):
    list(compress(student_file(tmp_path / "w.ckpt"), ["4bit"], tmp_path / "s.kit", drawn, tmp_path / "cache", None, SMALL))
    with pytest.raises(KitError, match=r"s.kit knows other classes than the data has \('0' for '<script>x'\)"):
        list(compress(tmp_path / "s.kit", ["4bit"], tmp_path / "t.kit", as_folders(drawn, tmp_path / "photos"), tmp_path / "cache"))


def test_photos_of_another_number_of_classes_than_a_strangers_student_has_are_refused(tmp_path, drawn):
    source = student_file(tmp_path / "w.ckpt", classes=11)
    for limit in ("4bit", "20000params"):
        with pytest.raises(KitError, match=r"w.ckpt has 11 outputs, the data has 6 classes"):
            list(compress(source, [limit], tmp_path / "s.kit", drawn, tmp_path / "cache", None, SMALL))
    assert not (tmp_path / "s.kit").exists()


def test_what_can_not_be_done_is_refused_with_what_to_do(tmp_path):
    source = student_file(tmp_path / "w.ckpt")
    with pytest.raises(KitError, match=r"must be pruned to fit into 100 parameters: give --data"):
        list(compress(source, ["100params"], tmp_path / "s.kit", None, tmp_path))
    with pytest.raises(KitError, match=r"is no 'hw7'. Name it with --student"):
        list(compress(source, ["4bit"], tmp_path / "s.kit", None, tmp_path, "hw7"))
    write_foreign(tmp_path / "odd.ckpt", "ckpt", {"a.weight": torch.randn(4, 3)})
    with pytest.raises(KitError, match="no network that is known"):
        list(compress(tmp_path / "odd.ckpt", ["4bit"], tmp_path / "s.kit", None, tmp_path))


def test_a_network_of_timm_is_known_by_its_name_and_its_widths_are_read_from_the_file(tmp_path):
    name = "timm/mobilenetv3_small_050"
    whole = build_student(name, (), 6)
    widths = (*widths_of(whole)[:-1], 800)
    found = Found(build_student(name, widths, 6).state_dict(), "w.ckpt")
    assert understand(found, name, [])[1].student == Student(name=name, widths=widths)
    with pytest.raises(KitError, match="no network that is known"):
        understand(found, None, [])


def test_a_network_that_reads_its_layers_weights_is_not_made_thinner(tmp_path):
    name = "timm/edgenext_xx_small"
    write_foreign(tmp_path / "w.ckpt", "ckpt", build_student(name, (), 6).state_dict())
    with pytest.raises(KitError, match="can't be used at 224 px"):
        list(compress(tmp_path / "w.ckpt", ["900000params"], tmp_path / "s.kit", None, tmp_path, name, by="rank"))


def test_parameters_may_be_lost_by_rank_without_photos(tmp_path):
    source = student_file(tmp_path / "w.ckpt")
    *_, said = compress(source, ["40000params"], tmp_path / "s.kit", None, tmp_path, by="rank")
    packed = unpack(tmp_path / "s.kit")
    assert 38_000 < count_parameters(packed.student) < packed.parameters <= 40_000
    assert f"{packed.parameters:,} of " in said  # as the limit counted them
    assert "ranks {" in said
    with pytest.raises(KitError, match="are factorised"):
        list(compress(tmp_path / "s.kit", ["4bit"], tmp_path / "t.kit", None, tmp_path))
    with pytest.raises(KitError, match="--by rank meets a number of parameters"):
        list(compress(source, ["40kB"], tmp_path / "t.kit", None, tmp_path, by="rank"))
