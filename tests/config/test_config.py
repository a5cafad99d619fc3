import json

import pytest

from kit.config.competitions import check_limits, competition
from kit.config.differences import differences, differing
from kit.config.override import override, places_of
from kit.config.recipes import RECIPES, recipe
from kit.errors import KitError


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_tiny_form_with_the_same_stages(name):
    config, small = recipe(name), recipe(name).tiny()
    assert small.train.epochs == 2
    assert (small.distill, small.student, small.prune is None) == (config.distill, config.student, config.prune is None)


def test_a_set_value_is_typed_and_changes_the_digest():
    config = override(recipe("boss"), ["train.epochs=30", "data.image_size=96", "distill.0.temperature=4"])
    assert (config.train.epochs, config.data.image_size, config.distill[0].temperature) == (30, 96, 4)
    assert config.digest() != recipe("boss").digest()


def test_a_place_of_a_list_may_be_set():
    config = override(recipe("boss"), ["data.mean.0=0.5", 'distill.0={"loss":"ce"}'])
    assert (config.data.mean[0], config.distill[0].loss) == (0.5, "ce")


def test_a_section_that_was_null_is_set_whole_and_then_by_its_fields():
    both = override(recipe("record"), ["prune={}", "prune.keep=0.7"])
    assert both.prune == override(recipe("record"), ['prune={"keep": 0.7}']).prune


def test_every_stage_of_a_tiny_recipe_takes_an_epoch_or_two():
    tiny = override(recipe("record"), ["lowrank={}", "prune={}", "quantize.train_epochs=10"]).tiny()
    assert (tiny.lowrank.train_epochs, tiny.prune.finetune_epochs, tiny.quantize.train_epochs) == (1, 1, 1)


@pytest.mark.parametrize("ramp", ["warmup", "second half"])
def test_a_recipe_that_begins_with_nothing_has_a_short_form_all_the_same(ramp):
    """`kit plan` trains one epoch of it, whose only p is 0."""
    terms = f'distill=[{{"loss":"kd","ramp":"{ramp}"}},{{"loss":"ce","ramp":[[0,0],[0.1,1]]}}]'
    assert override(recipe("record"), [terms, "prune={}"]).shortened(1).train.epochs == 1


def test_a_field_is_found_in_sections_that_may_be_left_out():
    assert places_of("epochs") == ["train.epochs"]
    assert places_of("keep") == ["prune.keep"]
    assert places_of("train_epochs") == ["lowrank.train_epochs", "quantize.train_epochs"]


def test_workers_and_the_save_interval_are_harmless():
    assert override(recipe("boss"), ["data.workers=3", "train.save_seconds=1"]).digest() == recipe("boss").digest()


def test_that_a_tiny_run_is_a_try_is_in_no_digest():
    tiny = recipe("record").tiny()
    meant = override(tiny, ["trial=null"])
    assert (tiny.tried_with, meant.tried_with, recipe("record").tried_with) == ("--tiny", "", "")
    assert tiny.digest() == meant.digest()
    both = tiny.model_dump(mode="json"), meant.model_dump(mode="json")
    assert (differences(*both), differing(*both)) == ([], {"trial": ("true", "null")})  # it may go on, and it is shown


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.epoch=3", "epochs"),
        ("tain.epochs=3", "train"),
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=0", "greater than or equal to 1"),
        ("train.lr", "section.field=value"),
        ("train.schedule=step", "train.drops"),
        ("distill.0.ramp=p^9", "distill.0"),
        ("distill.0.loss=ce", "distill.0.ce.temperature: there is no such field here (got 20.0)"),
        ('prune={"epochs": 3}', "prune.epochs: there is no such field here (got 3)"),
        ("distill.².weight=1", "distill has no '²' here"),
    ],
)
def test_a_wrong_assignment_is_refused_with_its_name_and_the_remedy(assignment, words):
    with pytest.raises(KitError, match="--set") as error:
        override(recipe("boss"), [assignment])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["train.lr=NaN"], "finite number"),
        (["train.lr=-0.1"], "greater than 0"),
        (["train.weight_decay=-1"], "greater than or equal to 0"),
        (["train.weight_decay=Infinity"], "finite number"),
        (["data.augment.crop_ratio=[-1, 2]"], "greater than 0"),
        (["data.augment.crop_scale=[0.9, 0.3]"], "must be above zero and come first"),
        (["data.augment.mixup=-0.2"], "greater than or equal to 0"),
        (["data.std=[0.2, 0, 0.2]"], "greater than 0"),
        (["data.std=[58.4, 57.1, 57.4]"], "less than or equal to 1"),
        (["data.mean=[123.7, 116.3, 103.5]"], "less than or equal to 1"),
        (["train.schedule=one_cycle", "train.warmup_epochs=1"], "warms up"),
        (["train.cooldown=0.3"], "of schedule 'wsd' alone"),
        (['distill=[{"loss": "dkd", "alpha": 0, "beta": 0}]'], "alpha and beta are both 0"),
        (['distill=[{"loss": "rkd", "student": "stem", "teacher": "layer1", "distance": 0, "angle": 0}]'], "distance and angle are both 0"),
        (["data.unlabelled=true", 'distill=[{"loss": "ce"}, {"loss": "kd", "weight": 0}]'], "no term that needs none"),
        (["train.final_fit=true", "train.patience=5"], "train.patience=null"),
        (["teacher.train.final_fit=true"], "set train.final_fit=true, which the teacher follows"),
        (['prune={"scratch": true, "finetune_epochs": 0}'], "leaves untrained"),
        (["train.ema_decay=0.9", "train.swa_from=0.5"], "two averages"),
        (["predict.crops=3"], "1 or 5"),
        (["student.parameters=0"], "greater than or equal to 1"),
        (["data.unlabelled=true", 'distill=[{"loss": "ce"}]'], "no term that needs none"),
        (["recipe="], "'' is to name a folder of runs/"),
        (["recipe=../up"], "'../up' is to name a folder of runs/"),
        (["recipe=/tmp/elsewhere"], "'/tmp/elsewhere' is to name a folder of runs/"),
        (['distill=[{"loss": "kd", "ramp": "warmup"}]', 'prune={"finetune_epochs": 1}'], "zero in each of prune.finetune_epochs=1"),
    ],
)
def test_values_that_make_no_sense_alone_or_together_are_refused(assignments, words):
    with pytest.raises(KitError, match="--set is refused") as error:
        override(recipe("record"), assignments)
    assert words in str(error.value)


def test_a_term_that_is_refused_is_the_only_thing_said():
    with pytest.raises(KitError) as error:
        override(recipe("record"), ['distill=[{"loss":"kd","weight":NaN}]'])
    assert str(error.value) == "--set is refused: distill.0.kd.weight: Input should be a finite number (got nan)."


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(KitError, match="Nearest: boss"):
        recipe("bos")


def test_a_config_of_an_earlier_version_is_none_of_another_run():
    """It lacks the sections and fields that have come since."""
    now = recipe("record").model_dump(mode="json")
    old = {name: section for name, section in now.items() if name != "lowrank"}
    old["train"] = {name: value for name, value in old["train"].items() if name != "sam_rho"}
    assert differences(old, now) == []
    assert differences(old | {"recipe": 7}, now)[0] == "recipe: 7 → record"


def test_differences_name_both_values():
    old, new = recipe("boss").model_dump(), override(recipe("boss"), ["train.lr=0.01", "data.workers=9"]).model_dump()
    assert differences(old, new) == ["train.lr: 0.001 → 0.01"]


def test_limits_are_gates_on_parameters_and_bytes():
    assert check_limits("hw13-2023", 60_000) == []
    assert "60,001" in check_limits("hw13-2023", 60_001)[0]
    assert check_limits("hw7-2020", 10**6, 300_000) == []
    assert "300,001" in check_limits("hw7-2020", 1, 300_001)[0]


def test_a_limit_without_a_unit_is_told_how_it_is_written():
    with pytest.raises(KitError, match="a limit has a unit, such as 60000params or 250kB"):
        override(recipe("boss"), ["limit=60000"])


def test_weights_that_leave_nothing_to_learn_are_refused():
    with pytest.raises(KitError, match="weights of all terms of distill are zero"):
        override(recipe("record"), ["distill.0.weight=0"])
    early = '[{"loss":"kd","ramp":"first half"},{"loss":"ce","weight":0}]'
    with pytest.raises(KitError, match=r"ramps of all terms of distill are zero at p = 0\.\d"):
        override(recipe("record"), [f"distill={early}"])


def test_rates_of_later_trainings_follow_the_plans_unless_they_are_set():
    config = override(recipe("record"), ['prune={"keep": 0.5}', 'lowrank={"train_lr": 3e-3}'])
    assert (config.finetune_lr, config.lowrank_lr) == (10e-3, 3e-3)
    assert config.settled().prune.finetune_lr == 10e-3  # a checkpoint has the number
    assert config.digest() == override(config, ["prune.finetune_lr=0.01"]).digest()


def test_only_slimming_makes_scales_sparse_unless_it_is_asked_for():
    def penalty(**prune):
        return override(recipe("record"), [f"prune={json.dumps(prune)}"]).gamma_penalty

    assert (recipe("record").gamma_penalty, penalty(), penalty(criterion="magnitude")) == (0, 1e-4, 0)
    assert (penalty(gamma_penalty=0), penalty(criterion="random", gamma_penalty=1e-3)) == (0, 1e-3)
    before = override(recipe("record"), ['prune={"gamma_penalty": 1e-4}'])  # what was said by default until 1.11
    assert before.digest() == override(recipe("record"), ["prune={}"]).digest()


def test_a_limit_is_a_competition_of_no_other_rule():
    rules = competition("60_000params+1.5kB")
    assert (rules.max_parameters, rules.max_bytes, rules.classes, rules.columns) == (60_000, 1_500, None, ("Id", "Category"))
    assert check_limits("60000params", 60_001) == ["60,001 parameters are over 60000params's limit of 60,000"]
    assert check_limits("250kB", 10**6, 250_000) == []
    for wrong in ("60000", "0params", "0kB", "_params", "60000params+", "+250kB", "60000 params", "4bit", "20MMACs"):
        with pytest.raises(KitError, match="or a limit, such as 60000params"):
            competition(wrong)


def test_options_that_would_do_nothing_are_refused():
    assert override(recipe("sample"), ["prune.steps=2", "prune.restart=true"]).prune.restart
    both = 'lowrank={"rank": 4, "parameters": 9000}'
    for wrong in (["prune.restart=true"], ["quantize.train_epochs=1", "pack.method=codebook"], [both]):
        with pytest.raises(KitError, match="--set is refused"):
            override(recipe("sample"), wrong)


def test_how_a_student_is_packed_is_checked():
    assert override(recipe("record"), ["pack.bits=4", "pack.method=symmetric"]).pack.bits == 4
    for wrong in (
        ["pack.bits=9"],
        ["pack.bits=1"],
        ["pack.method=zip"],
        ["pack.calibration=64", "pack.method=codebook"],
        ["pack.method=course", "pack.bits=4"],
    ):
        with pytest.raises(KitError, match="pack"):
            override(recipe("record"), wrong)


def test_whether_photos_are_resident_or_streamed_is_no_other_run():
    config = recipe("boss")
    assert override(config, ["data.feed=stream"]).digest() == config.digest() != override(config, ["data.feed=decode"]).digest()
