"""Whatever the kit has trained may teach, and is checked as other teachers are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from kit.compress.lsq import with_steps
from kit.compress.pack import pack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Student
from kit.config.terms import Hint, SimKD
from kit.data.layout import find_dataset
from kit.errors import KitError
from kit.models.students import build_student, widths_of
from kit.models.teacher import build_teacher
from kit.stages.begin import check_beginning, check_learnt
from kit.stages.student import check_terms
from kit.stages.teacher_file import file_of, has_seen, read_teacher
from kit.stages.weights import find_weights
from kit.train.checkpoint import Checkpoints

CLASSES = tuple("abcdef")
CONFIG = override(recipe("sample"), ["student.widths=[8,16,16,24,24,32,32]"])


@pytest.fixture
def student():
    torch.manual_seed(3)
    return build_student("record", CONFIG.student.widths, 6).eval()


@pytest.fixture
def packed(student, tmp_path):
    pack(tmp_path / "student.kit", student, CONFIG, widths_of(student), CLASSES, {})
    return tmp_path / "student.kit"


def x():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def checkpoint(out, student, log, stage="distil", done=True, **state):
    checkpoints = Checkpoints(out, stage, {}, CONFIG.settled().model_dump(mode="json"), log)
    state = {"best": {"accuracy": 0.5, "epoch": 1, "weights": student.state_dict()}} | state
    return (checkpoints.finish if done else checkpoints.save)(7, state)


def test_a_packed_student_teaches(packed, student):
    teacher = read_teacher(packed, CONFIG, CLASSES)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.allclose(teacher(x()), student(x()), atol=0.1)  # its weights have eight bits


def test_a_runs_folder_is_its_trained_student_before_it_was_packed(packed, student, tmp_path, log):
    assert file_of(tmp_path) == packed
    result = checkpoint(tmp_path, student, log, widths=widths_of(student))
    assert file_of(tmp_path) == result
    assert torch.equal(read_teacher(result, CONFIG, CLASSES)(x()), student(x()))


def test_a_checkpoint_on_the_way_teaches_with_its_best_weights_so_far(student, tmp_path, log):
    on_the_way = checkpoint(tmp_path, student, log, done=False, network={})
    assert torch.equal(read_teacher(on_the_way, CONFIG, CLASSES)(x()), student(x()))


def test_half_a_fine_tuning_is_as_wide_as_its_weights(tmp_path, log):
    slimmer = build_student("record", (8, 8, 8, 8, 8, 8, 8), 6).eval()
    half = checkpoint(tmp_path, slimmer, log, stage="finetune", done=False)
    assert torch.equal(read_teacher(half, CONFIG, CLASSES)(x()), slimmer(x()))


def test_an_output_that_became_a_data_set_without_its_folders_teaches(student, tmp_path, log):
    (tmp_path / "run").mkdir()
    result = checkpoint(tmp_path / "run", student, log)
    flat = Path(shutil.copy(result, tmp_path))
    assert file_of(tmp_path) == flat
    assert torch.equal(read_teacher(flat, CONFIG, CLASSES)(x()), student(x()))


def test_weights_of_another_student_than_their_config_names_are_refused(tmp_path, log):
    other = checkpoint(tmp_path, build_student("boss", (), 6), log)
    with pytest.raises(KitError, match=r"is no 'record' as this version of the kit builds it\. Give its run's student\.kit\."):
        read_teacher(other, CONFIG, CLASSES)


def test_a_checkpoint_with_settings_of_another_version_is_refused_in_words(student, tmp_path, log):
    config = CONFIG.settled().model_dump(mode="json") | {"later": 1}
    file = Checkpoints(tmp_path, "distil", {}, config, log).finish(7, {"best": {"accuracy": 0.5, "weights": student.state_dict()}})
    for look in (lambda: read_teacher(file, CONFIG, CLASSES), lambda: find_weights(tmp_path)):
        with pytest.raises(KitError, match=r"another version of the kit \(later: there is no such field"):
            look()


def test_a_run_without_a_student_is_refused(tmp_path):
    with pytest.raises(KitError, match="holds no student"):
        file_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("data.image_size=64", r"image_size 32, this run has 64: --set 'teacher.image_size=32'"),
        ("teacher.image_size=48", r"image_size 32, this run has 48: --set 'teacher.image_size=32'"),
        ("data.mean=[0.5,0.5,0.5]", r"--set 'data.mean=\[0.485, 0.456, 0.406\]'"),
        ("data.std=[0.5,0.5,0.5]", r"--set 'data.std="),
    ],
)
def test_a_teacher_of_another_input_is_refused_with_the_setting_that_fits(packed, change, remedy):
    with pytest.raises(KitError, match=remedy):
        read_teacher(packed, override(CONFIG, [change]), CLASSES)
    read_teacher(packed, override(CONFIG, ["data.image_size=64", "teacher.image_size=32"]), CLASSES)


@pytest.mark.parametrize("changes", [["train.seed=7"], ["data.holdout=0.3"], ["train.seed=7", "data.holdout=0.3"]])
def test_a_teacher_that_has_learnt_from_photos_that_are_held_out_now_is_refused(packed, changes):
    here = override(CONFIG, changes)
    with pytest.raises(KitError, match="no validation folder") as error:
        read_teacher(packed, here, CLASSES, held_out=True)
    remedy = str(error.value).partition("the same ones: --set ")[2].rstrip(".").split(" --set ")
    read_teacher(packed, override(here, remedy), CLASSES, held_out=True)
    read_teacher(packed, here, CLASSES)  # photos of a folder are no others
    read_teacher(packed, override(here, ["train.final_fit=true"]), CLASSES, held_out=True)


def test_a_runs_own_teacher_is_asked_what_it_has_learnt_from_by_the_record_beside_it(tmp_path):
    file = tmp_path / "teacher.ckpt"
    torch.save(build_teacher(CONFIG.teacher.arch, 6).state_dict(), file)
    read_teacher(file, override(CONFIG, ["train.seed=7"]), CLASSES, held_out=True)  # alone it tells nothing
    (tmp_path / "run.json").write_text(json.dumps({"config": CONFIG.model_dump(mode="json")}), encoding="utf-8")
    read_teacher(file, CONFIG, CLASSES, held_out=True)
    with pytest.raises(KitError, match=r"--set train.seed=20220013\.$"):
        read_teacher(file, override(CONFIG, ["train.seed=7"]), CLASSES, held_out=True)
    with pytest.raises(KitError, match=r"teacher.ckpt was trained with data.image_size 32, this run has 64: --set 'teacher.image_size=32'"):
        read_teacher(file, override(CONFIG, ["data.image_size=64"]), CLASSES)


def test_what_a_final_fit_has_trained_teaches_no_run_that_validates(student, tmp_path):
    final = override(CONFIG, ["train.final_fit=true"])
    pack(tmp_path / "student.kit", student, final, widths_of(student), CLASSES, {})
    with pytest.raises(KitError, match=r"learnt from the validation photos.*--set train.final_fit=true\.$"):
        read_teacher(tmp_path / "student.kit", CONFIG, CLASSES)
    read_teacher(tmp_path / "student.kit", final, CLASSES)


def test_a_final_fit_knows_which_teachers_have_learnt_from_the_validation_photos(packed, student, tmp_path, log):
    """Its own has; of others a file tells by its config, or by the run.json beside it."""
    final = override(CONFIG, ["train.final_fit=true"])
    assert not has_seen(packed, final, held_out=True)
    assert not has_seen(checkpoint(tmp_path, student, log), final, held_out=True)
    assert has_seen(packed, override(final, ["train.seed=7"]), held_out=True)
    torch.save(build_teacher(CONFIG.teacher.arch, 6).state_dict(), file := tmp_path / "teacher.ckpt")
    assert not has_seen(file, final, held_out=True)
    (tmp_path / "run.json").write_text(json.dumps({"config": final.model_dump(mode="json")}), encoding="utf-8")
    assert has_seen(file, final, held_out=False)


@pytest.mark.parametrize("done", [False, True])
def test_a_teacher_that_a_run_has_trained_begins_another_as_its_student_would(done, drawn, tmp_path, log):
    """By name alone it is a ResNet-18: its checkpoint, or the run.json beside teacher.ckpt, tells what it has learnt from."""
    final, weights = override(CONFIG, ["train.final_fit=true"]), build_teacher(CONFIG.teacher.arch, 6).state_dict()
    account = {"config": final.model_dump(mode="json"), "classes": CLASSES}
    (tmp_path / "run.json").write_text(json.dumps(account), encoding="utf-8")
    torch.save(weights, file := tmp_path / "teacher.ckpt")
    if done:
        file = Checkpoints(tmp_path, "teacher", {}, account["config"], log).finish(7, {"weights": weights})
    here = CONFIG.model_copy(update={"student": Student(name="timm/resnet18")})
    dataset = replace(find_dataset(drawn, None, 0.2, 0), classes=CLASSES)
    check_beginning(file, here)
    with pytest.raises(KitError, match=r"learnt from the validation photos.*--set train.final_fit=true\.$"):
        check_learnt(file, here, dataset)
    check_learnt(file, override(here, ["train.final_fit=true"]), dataset)
    with pytest.raises(KitError, match=r"other classes.*'a' for 'b'"):
        check_learnt(file, here, replace(dataset, classes=tuple("bacdef")))
    with pytest.raises(KitError, match=r"with data.image_size 32, this run has 64: --set 'data.image_size=32'"):
        check_beginning(file, override(here, ["data.image_size=64"]))
    with pytest.raises(KitError, match=r"holds the student 'timm/resnet18', the recipe has 'record'"):
        check_beginning(file, CONFIG)


def test_adjusted_logits_teach_nobody_as_no_run_begins_with_them(packed, student, tmp_path, log):
    adjusted = override(CONFIG, ["predict.logit_adjustment=1"])
    pack(packed, student, adjusted, widths_of(student), CLASSES, {})
    words = r"student\.kit are adjusted for uneven classes already \(predict\.logit_adjustment\)\. Give its run's folder"
    for here in (CONFIG, adjusted):
        with pytest.raises(KitError, match=words):
            read_teacher(file_of(tmp_path), here, CLASSES)
        with pytest.raises(KitError, match=words):
            check_beginning(packed, here)
    checkpoint(tmp_path, student, log, widths=widths_of(student))
    read_teacher(file_of(tmp_path), CONFIG, CLASSES)


def test_a_run_begins_with_the_student_of_its_name_and_widths_alone(packed, student, tmp_path, log):
    """Said before photos are read and a teacher is trained."""
    check_beginning(packed, CONFIG)
    with pytest.raises(
        KitError, match=r"of widths \[8, 16, .*this run has \[32, .*: --set 'student.widths=\[8, 16, 16, 24, 24, 32, 32\]'\.$"
    ):
        check_beginning(packed, recipe("sample").model_copy(update={"data": CONFIG.data}))
    solved = override(CONFIG, ["student.parameters=5000"])
    with pytest.raises(KitError, match=r"--set student\.parameters=null\.$"):
        check_beginning(packed, solved)
    with pytest.raises(KitError, match=r"holds the student 'record', the recipe has 'hw7'\. Take theirs: --set student\.name=record\."):
        check_beginning(packed, override(CONFIG, ["student={'name': 'hw7'}".replace("'", '"')]))
    grid = checkpoint(tmp_path, with_steps(student, CONFIG.pack), log, stage="qat")
    with pytest.raises(KitError, match="layers that only packing knows"):
        check_beginning(grid, CONFIG)
    with pytest.raises(KitError, match="layers that only packing knows"):
        read_teacher(grid, CONFIG, CLASSES)


def test_a_teacher_of_other_classes_is_refused(packed, student, tmp_path, log):
    with pytest.raises(KitError, match=r"other classes.*'a' for 'b'"):
        read_teacher(packed, CONFIG, tuple("bacdef"))
    result = checkpoint(tmp_path, student, log, widths=widths_of(student))
    with pytest.raises(KitError, match="has 6 outputs, the data has 2 classes"):
        read_teacher(result, CONFIG, CLASSES[:2])
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "t.pt")
    with pytest.raises(KitError, match="has 5 outputs, the data has 6 classes"):
        read_teacher(tmp_path / "t.pt", CONFIG, CLASSES)
    assert read_teacher(tmp_path / "t.pt", CONFIG, None).fc.out_features == 5


def check(teacher, **changes):
    check_terms(CONFIG.model_copy(update=changes), teacher)


def test_a_recipe_is_held_against_its_networks_before_anything_is_done(packed):
    resnet, assistant = build_teacher("torchvision/resnet18", 6), read_teacher(packed, CONFIG, CLASSES)
    check(resnet)
    with pytest.raises(KitError, match=r"'layer1', which Classifier does not have.*Nearest"):
        check(assistant)
    check(assistant, distill=(Hint(student="blocks.1", teacher="blocks.3"),))
    with pytest.raises(KitError, match=r"end student.widths with 512"):
        check(resnet, distill=(SimKD(student="blocks.5", teacher="layer4"),))
    with pytest.raises(KitError, match=r"'boss' takes its stem from a ResNet"):
        check(assistant, student=recipe("boss").student, distill=recipe("medium").distill)
    with pytest.raises(KitError, match=r"'boss' takes its stem from a ResNet, 32 channels wide"):
        check(resnet, student=Student(name="boss", widths=(32, 64, 128, 256, 100)), distill=recipe("medium").distill)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["teacher.store=float16", 'distill=[{"loss":"ce"}]'], "no term of distill looks at a teacher"),
        (['distill=[{"loss":"simkd","student":"blocks.5","teacher":"layer4"}]'], "leave out simkd or prune"),
        (['distill=[{"loss":"review","student":["blocks.1"],"teacher":["layer1","layer2"]}]'], "review pairs stages"),
        (["distill=[]"], "distill"),
        (['distill=[{"loss":"ce","ramp":[[0.2,1],[0.7,0]]},{"loss":"kd","ramp":"first half"}]'], "zero at p = 0.7"),
    ],
)
def test_what_can_not_work_together_is_refused_when_the_recipe_is_built(assignments, words):
    with pytest.raises(KitError) as error:
        override(recipe("sample"), assignments)
    assert words in str(error.value)
