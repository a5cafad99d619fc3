"""Several runs on one page."""

import re
from dataclasses import replace

import pytest

from kit.config.override import override
from kit.errors import KitError
from kit.report.compare import changes, compare, distinct
from kit.report.run import read_run


def test_two_runs_stand_side_by_side_with_their_curves(runs, tmp_path):
    read = [read_run(runs.suspended), read_run(runs.done)]
    html = compare(read, tmp_path / "new" / "comparison.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in html for name in ("suspended", "done"))
    assert len(re.findall(r'<path class="line c[12]( one)?" d="M0\.00 ', html)) == 2
    assert "Validation accuracy over the epochs: suspended ends at" in html
    assert "&lt;script&gt;x" in html
    assert not re.search(r"https?:|<script", html)


def test_which_runs_are_tries_is_said_before_any_figure(runs, tmp_path):
    tiny = read_run(runs.done)
    whole, part = (replace(tiny, config=override(tiny.config, ["trial=null", *more])) for more in ([], ["data.subset=0.07"]))
    named = [replace(run, out=tmp_path / name) for name, run in {"tiny": tiny, "whole": whole, "part": part}.items()]
    top = compare(named, tmp_path / "three.html").read_text(encoding="utf-8").partition("<h1")[0]
    assert "<b>Tries:</b> tiny (smoke test), part (7\u202f% of the photos)." in top
    assert "warn" not in compare([whole] * 2, tmp_path / "both.html").read_text(encoding="utf-8").partition("<main>")[2]


def test_what_differs_between_configs_is_listed_a_value_a_run(runs):
    one, other = read_run(runs.done), read_run(runs.done)
    other.record["config"]["train"]["lr"] = 0.5
    assert changes([one, other]) == [("train.lr", ["0.004", "0.5"])]
    assert changes([one, other, one]) == [("train.lr", ["0.004", "0.5", "0.004"])]
    assert changes([one, one]) == []
    one.record["config"]["trial"] = None  # what changes no weight is shown, too
    assert ("trial", ["null", "true"]) in changes([one, other])
    one.record["config"]["recipe"] = "a → b: c"
    assert ("recipe", ["a → b: c", "sample-tiny"]) in changes([one, other])


def test_runs_of_one_name_are_told_apart_by_their_folders(runs):
    assert distinct([read_run(runs.done), read_run(runs.done)]) == [str(runs.done)] * 2
    assert distinct([read_run(runs.done), read_run(runs.suspended)]) == ["done", "suspended"]


def test_seven_runs_are_refused_since_two_of_them_would_look_alike(runs, tmp_path):
    read = [read_run(runs.done)] * 7
    assert "line c3" in compare(read[:6], tmp_path / "six.html").read_text()
    with pytest.raises(KitError, match="tells 6 apart"):
        compare(read, tmp_path / "seven.html")
