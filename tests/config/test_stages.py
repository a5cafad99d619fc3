from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.stages import Step, kind_of, steps_of, up_to_pruning


def test_the_last_of_several_steps_has_the_names_of_the_only_one():
    assert steps_of(None) == []
    assert steps_of(recipe("sample").prune) == [Step("prune", "finetune", 1.0)]
    assert [step.prune for step in steps_of(override(recipe("sample"), ["prune.steps=3"]).prune)] == ["prune1", "prune2", "prune"]


def test_the_student_is_pruned_and_tuned_in_turn_after_it_is_distilled():
    in_two = up_to_pruning(override(recipe("sample"), ["prune.steps=2"]).prune)
    assert in_two == ["distil", "prune1", "finetune1", "prune", "finetune"]
    assert [kind_of(stage) for stage in in_two] == ["distil", "prune", "finetune", "prune", "finetune"]
    assert up_to_pruning(None) == ["distil"]
