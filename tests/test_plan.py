import pytest

from kit.config.recipes import recipe
from kit.config.schema import override
from kit.errors import KitError
from kit.plan import Measured, fit_epochs, sessions, total, with_epochs

HOUR = 3600
BOSS = override(recipe("boss"), ["train.patience=null"])


def test_sessions_and_hours_follow_from_an_epochs_seconds():
    """600 epochs of 43.7 s, the published run: 7.3 hours, one session of 9."""
    published = Measured({"distil": 43.7}, overhead=60)
    assert sessions(BOSS, published, 9 * HOUR) == 1
    assert total(BOSS, published, 9 * HOUR) == pytest.approx(600 * 43.7 + 60)
    assert sessions(BOSS, published, 2 * HOUR) == 4


def test_every_trained_stage_counts():
    pruned = override(BOSS, ['prune={"finetune_epochs": 50}'])
    assert total(pruned, Measured({"distil": 10, "finetune": 5}, 0), HOUR) == 600 * 10 + 50 * 5


@pytest.mark.parametrize("quota", [1, 5, 30])
def test_the_epochs_that_are_found_fill_the_quota_and_one_more_would_not_fit(quota):
    measured = Measured({"distil": 43.7}, overhead=90)
    found = fit_epochs(BOSS, measured, 2 * HOUR, quota * HOUR).train.epochs
    more = with_epochs(BOSS, distil=found + 1)
    assert total(with_epochs(BOSS, distil=found), measured, 2 * HOUR) <= quota * HOUR < total(more, measured, 2 * HOUR)


def test_what_can_not_be_planned_is_refused_in_words():
    with pytest.raises(KitError, match="leaves no time to train"):
        sessions(BOSS, Measured({"distil": 10}, overhead=120), 100)
    with pytest.raises(KitError, match="Not one epoch fits"):
        fit_epochs(BOSS, Measured({"distil": HOUR}, overhead=10), 9 * HOUR, HOUR)
