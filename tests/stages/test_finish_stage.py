import copy

from kit.config.recipes import recipe
from kit.models.students import build_student
from kit.session import open_session
from kit.stages.finish import best_packed
from kit.stages.photos import read_photos
from kit.train.budget import Budget


def test_of_students_that_know_as_much_once_they_are_packed_the_last_is_taken(drawn, tmp_path, log):
    session = open_session(recipe("sample").tiny(), tmp_path, Budget(None), log)
    material = read_photos(session, drawn, tmp_path / "cache")
    student = build_student(session.config.student.name, (), 6).eval()
    students = {"training": student, "qat": copy.deepcopy(student)}
    assert best_packed(session, material, students)[0] is students["qat"]
    assert session.record["stages"]["quantize"]["chosen"] == "qat"
