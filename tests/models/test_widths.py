import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.config.schema import Student
from kit.errors import KitError
from kit.models.students import STUDENTS, build_student, count_parameters
from kit.models.widths import solve, widths_for


def parameters(name, widths, classes=11):
    return count_parameters(build_student(name, widths, classes))


@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from(sorted(STUDENTS)), limit=st.integers(20_000, 150_000), classes=st.sampled_from([2, 11]))
def test_a_limit_is_met_from_below_until_no_channel_fits_any_more(name, limit, classes):
    widths = solve(name, limit, classes)
    ties = STUDENTS[name].ties or [(i,) for i in range(len(widths))]
    assert parameters(name, widths, classes) <= limit
    for tie in ties:
        assert parameters(name, [w + (i in tie) for i, w in enumerate(widths)], classes) > limit


@pytest.mark.parametrize("name", ["resnet8x4", "preresnet8x4"])
def test_cifars_networks_are_narrowed_with_their_streams_whole(name):
    widths = solve(name, 60_000, 11)
    assert 58_000 < parameters(name, widths) <= 60_000
    assert build_student(name, widths, 11)(torch.zeros(2, 3, 32, 32)).shape == (2, 11)


def test_equal_arguments_give_equal_widths_in_the_tables_proportions():
    widths = solve("record", 60_000, 11)
    assert widths == solve("record", 60_000, 11) == widths_for(Student(name="record", parameters=60_000), 11)
    assert parameters("record", widths) == 59_934
    assert widths == (33, 64, 64, 96, 96, 121, 121)  # a residual pair stays one


def test_the_published_stem_keeps_its_width():
    assert solve("boss", 60_000, 11)[0] == 64


def test_other_proportions_and_multiples_are_kept_to():
    widths = solve("hw13", 60_000, 11, base=(8, 16, 32, 64), multiple=4)
    assert all(w % 4 == 0 for w in widths)
    assert 55_000 < parameters("hw13", widths) <= 60_000
    assert widths_for(Student(name="hw13", widths=(4, 8, 16, 32)), 11) == (4, 8, 16, 32)


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
def test_any_group_count_gives_a_student_near_the_limit(groups):
    name = f"bottleneck/{groups}"
    widths = solve(name, 60_000, 11)
    student = build_student(name, widths, 11)
    assert {m.groups for m in student.modules() if getattr(m, "kernel_size", None) == (3, 3) and m.in_channels != 3} == {groups}
    assert 59_000 < count_parameters(student) <= 60_000
    assert student(torch.zeros(2, 3, 32, 32)).shape == (2, 11)


def test_what_can_not_be_solved_or_built_is_refused_with_the_remedy():
    with pytest.raises(KitError, match="fits into 100 parameters"):
        solve("record", 100, 11)
    with pytest.raises(KitError, match="no widths to solve for"):
        solve("timm/resnet18", 60_000, 11)
    with pytest.raises(KitError, match=r"3 groups don't divide the widths \[16, 16.*student.parameters"):
        build_student("bottleneck/3", (), 11)
    with pytest.raises(KitError, match="no student 'bottleneck/0'"):
        build_student("bottleneck/0", (), 11)
