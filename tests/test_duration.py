import pytest

from kit.duration import parse_duration, say_duration
from kit.errors import KitError


@pytest.mark.parametrize(("text", "seconds"), [("9h", 32_400), ("30m", 1_800), ("1h30m", 5_400), ("90s", 90), ("45", 45), ("0.5h", 1_800)])
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "9 hours", "-5m", "3d", "9h30"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(KitError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (12.4, "12 s"),
        (59.7, "1 min 00 s"),
        (119.7, "2 min 00 s"),
        (250, "4 min 10 s"),
        (3_599, "1 h 00 min"),
        (32_700, "9 h 05 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations_are_said(seconds, said):
    assert say_duration(seconds) == said
