"""What a recipe is refused for before anything is spent on it."""

import shutil

import pytest

from kit.config.override import override
from kit.config.recipes import recipe
from kit.errors import KitError
from kit.session import open_session
from kit.stages.photos import read_photos
from kit.stages.refusals import check_photos, check_recipe, refuse_too_large
from kit.train.budget import Budget


def check(log, name, *assignments):
    check_recipe(override(recipe(name), list(assignments)), log)


@pytest.mark.parametrize(
    ("name", "assignments", "words"),
    [
        ("simple", ["student.name=hw7"], r"256,779 parameters are over hw13-2023's limit of 60,000.*student\.parameters"),
        ("simple", ["student.name=timm/lcnet_035"], "377,461 parameters are over"),
        ("simple", ["student.name=timm/lcnet_0"], "Nearest: timm/lcnet"),
        ("simple", ["limit=40kB"], r"new, it is packed into 60,\d{3} bytes, and 40kB allows 40,000\. Lower pack.bits"),
        ("simple", ["student.name=branchd"], "Nearest: branched"),
        ("simple", ["student.parameters=90000"], r"9\d,\d{3}|8\d,\d{3} parameters are over"),
        ("simple", ["data.image_size=20"], "'hw13' can't be used at 20 px"),
        ("sample", ["student.name=timm/ghostnet_050", "data.image_size=96"], "fixes sizes"),
        ("simple", ["student.name=branched", "pack.method=course"], "deployed without its branches"),
        ("sample", ["student.name=timm/vit_tiny_patch16_224", "data.image_size=224"], "This student has no channels .*do not prune"),
        ("sample", ['prune={"parameters": 500}'], r"No pruned 'record' fits into 500 parameters: the smallest, .* has 1,\d{3} parameters"),
        ("sample", ["limit=1kB"], r"No pruned 'record' fits into \d{2},\d{3} parameters and 980 bytes"),
        ("sample", ['lowrank={"parameters": 500}'], r"At rank one \d,\d{3} parameters are left, .*in a run prune"),
        ("simple", ["student.name=timm/vit_tiny_patch16_224", "competition=any", "data.image_size=96"], "can't be used at 96 px"),
        ("simple", ["train.balanced=true", "predict.logit_adjustment=1"], "rare ones would be favoured twice. Leave one of the two out"),
    ],
)
def test_a_student_that_can_not_be_handed_in_or_used_is_refused(log, name, assignments, words):
    with pytest.raises(KitError, match=words):
        check(log, name, *assignments)


def test_classes_that_had_no_names_count_at_a_limit_of_bytes_once_they_are_known(log):
    config = override(recipe("record"), ["competition=60kB"])
    check_recipe(config, log)
    with pytest.raises(KitError, match=r"new, it is packed into \d{2},\d{3} bytes, and 60kB allows 60,000"):
        refuse_too_large(config, 200, log)


def test_a_student_that_may_or_may_not_keep_a_limit_of_bytes_is_told_of(log, capsys):
    check(log, "simple", "limit=50kB")
    assert "note: the student may be over the limit" in capsys.readouterr().out
    check(log, "simple", "limit=40kB", "pack.bits=4")
    check(log, "simple", "limit=40kB", 'prune={"keep": 0.5}')
    check(log, "hw7")
    assert "note" not in capsys.readouterr().out


def test_any_student_is_let_through_at_its_limit(log):
    check(log, "simple", "student.name=hw7", "student.parameters=60000")
    check(log, "simple", "student.name=branched")
    check(log, "simple", "student.name=timm/lcnet_035", "competition=any", "data.image_size=96")
    check(log, "sample", 'prune={"keep": 0.15}', 'lowrank={"parameters": 5000}')  # of the whole student more are left at rank one
    check(log, "sample", "student.name=timm/lcnet_035", 'distill=[{"loss": "kd"}]')


def test_a_term_that_teaches_nothing_of_two_classes_is_refused(drawn, tmp_path, log):
    photos = shutil.copytree(drawn, tmp_path / "photos", ignore=shutil.ignore_patterns("[2-5]_*"))

    def checked(out, term):
        session = open_session(override(recipe("sample").tiny(), [f"distill=[{term}]"]), tmp_path / out, Budget(None), log)
        check_photos(session, read_photos(session, photos, tmp_path / "cache"), None)

    for out, term in (("kd", '{"loss":"kd"}'), ("dkd", '{"loss":"dkd","beta":0}'), ("dist", '{"loss":"dist","beta":0}')):
        checked(out, term)
    with pytest.raises(KitError, match=r"standardise makes the same z-scores.*Leave it out"):
        checked("z", '{"loss":"kd","standardise":true}')
    for term, part in (('{"loss":"dkd","alpha":0}', "alpha"), ('{"loss":"dist","gamma":0}', "gamma")):
        with pytest.raises(KitError, match=f"{part} is all that is left of .*Give {part} a weight"):
            checked(part, term)
