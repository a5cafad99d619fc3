"""What a study's document says beyond its table: published beside measured, stages, curves, layer tables, diagrams of the models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel
from test_chained import chained

from kit.studies import figures
from kit.studies.catalogue import STUDIES, find_study
from kit.studies.document import as_table, markdown, write
from kit.studies.journal import read
from kit.studies.networks import boxes, networks_of
from kit.studies.tables import agreement, frame, noise_of, packing, rows, steps

DOCUMENTS = Path(__file__).parents[2] / "docs" / "studies"


def entry(arm, seed, accuracy, parameters=1000, stages=()):
    made = {"study": "chained", "arm": arm, "seed": seed, "digest": "d", "setting": "reduced", "state": "done", "seconds": 60.0}
    return made | {
        "validation_accuracy": accuracy,
        "parameters": parameters,
        "bytes": 20,
        "device": "CPU",
        "commit": "c",
        "stages": dict(stages),
    }


def journal(slim=0.3):
    """Three seeds, close together."""
    pruned = {
        "teacher": {"accuracy": 0.9},
        "distil": {"accuracy": 0.5, "parameters": 1000, "bytes": 4000, "widths": [8, 16]},
        "prune": {"accuracy": 0.2, "parameters": 700, "bytes": 2800, "widths": [6, 11]},
        "finetune": {"accuracy": slim, "parameters": 700, "bytes": 2800},
        "quantize": {"accuracy": slim, "parameters": 700, "bytes": 900, "packing": {"before": 0.302, "after": 0.3, "equal": 0.995}},
    }
    taught = [entry("taught", seed, 0.5 + seed / 1000, stages={"teacher": {"accuracy": 0.8}}) for seed in range(3)]
    return taught + [entry("slim", seed, slim + seed / 1000, 700, pruned) for seed in range(3)]


def test_published_differences_stand_beside_the_measured_ones():
    says = lambda slim: agreement(chained(), rows(chained(), journal(slim), "reduced")).to_dict("records")[0]  # noqa: E731
    assert says(0.3) == {"arm": "slim", "against": "taught", "published": "-10.00", "measured": "-20.00", "": "agrees"}
    assert says(0.7)[""] == "**disagrees**"
    assert says(0.5)[""] == "unseparated"
    one = [line for line in journal() if line["seed"] == 0]
    assert agreement(chained(), rows(chained(), one, "reduced")).to_dict("records")[0][""] == "one seed"


def test_seeds_of_one_arm_are_not_called_one_seed_and_nothing_done_names_no_device():
    said = lambda entries: markdown(chained(), entries, "reduced")  # noqa: E731
    assert "One seed tells no arms apart." in said(journal()[:1])
    assert "Seeds of one arm tell no arms apart." in said(journal()[:3])
    assert "Device: CPU." in said(journal()[:3])
    assert "Device:" not in said([])


def test_chance_is_what_is_left_beside_the_arms_and_the_seeds_own_effects():
    """Of two arms that is the paired t-test; seeds that lift all arms alike leave nothing."""
    ours, theirs = [0.51, 0.60, 0.74, 0.57], [0.50, 0.61, 0.70, 0.55]
    entries = [entry(arm, seed, value) for arm, values in (("taught", ours), ("slim", theirs)) for seed, value in enumerate(values)]
    noise, gaps = noise_of(rows(chained(), entries, "reduced")), np.subtract(ours, theirs)
    assert (noise.deviation, noise.freedom) == (pytest.approx(gaps.std(ddof=1) / 2**0.5), 3)
    for worse, told in ((0.0, False), (0.05, True)):
        moved = [line | {"validation_accuracy": line["validation_accuracy"] - worse * (line["arm"] == "slim")} for line in entries]
        table = frame(chained(), rows(chained(), moved, "reduced")).set_index("arm")
        assert ("unseparated" not in table["against the reference"]["slim"]) == told
        assert (ttest_rel(ours, np.subtract(theirs, worse)).pvalue < 0.05) == told


def test_an_arm_that_repeats_another_to_the_bit_tells_nothing_of_chance():
    ours, theirs = [0.51, 0.60, 0.74, 0.57], [0.50, 0.61, 0.70, 0.55]
    for repeated in (ours, ours[:3]):
        arms = [("taught", ours), ("slim", theirs), ("teacher", repeated)]
        entries = [entry(arm, seed, value) for arm, values in arms for seed, value in enumerate(values)]
        assert noise_of(rows(chained(), entries, "reduced")) == noise_of(rows(chained(), entries[:8], "reduced"))


def test_an_arm_may_be_held_against_another_than_the_reference_and_against_its_teacher():
    first, taught, slim = chained().arms
    study = replace(chained(), arms=(replace(first, published="0.7"), taught, replace(slim, against="teacher")))
    entries = [entry("teacher", seed, 0.6 + seed / 1000) for seed in range(3)] + journal()
    lines = agreement(study, rows(study, entries, "reduced")).to_dict("records")
    assert {(line["arm"], line["against"]) for line in lines} == {
        ("teacher", "taught"), ("taught", "teacher"), ("slim", "teacher"), ("slim", "taught"),
    }  # fmt: skip
    text = markdown(study, entries, "reduced")
    assert "| -30.00 against teacher |" in text
    assert "| +10.00 |" in text  # the teacher itself, against the reference


def test_the_time_of_an_epoch_is_that_of_the_seed_that_was_disturbed_least():
    lines = [entry("taught", seed, 0.5, stages={"distil": {"seconds": 30.0 - seed}}) | {"curve": [0.1, 0.5]} for seed in range(3)]
    assert "| seconds an epoch |" not in markdown(chained(), lines, "reduced")
    assert "| 14.0 |" in markdown(replace(chained(), paced=True), lines, "reduced")


def test_stages_have_accuracy_parameters_and_bytes():
    table = steps(rows(chained(), journal(), "reduced"))
    assert list(table.stage) == ["distil", "prune", "finetune", "quantize"]
    assert table.to_dict("records")[1] == {"arm": "slim", "stage": "prune", "accuracy": "0.2000", "parameters": "700", "bytes": "2,800"}


def test_what_packing_changed_is_a_mean_over_seeds_and_the_least_of_equal_answers():
    made = journal()
    made[-1]["stages"] = {"quantize": {"parameters": 700, "bytes": 900, "packing": {"before": 0.31, "after": 0.3, "equal": 0.98}}}
    (line,) = packing(rows(chained(), made, "reduced")).to_dict("records")
    assert (line["arm"], line["bytes"]) == ("slim", "20")
    assert line["points lost"] == "0.47 ± 0.46"
    assert line["equal answers"] == "99.00%, at least 98.00%"
    assert "What packing changed" in markdown(chained(), made, "reduced")


def test_teachers_are_shown_where_they_differ_and_where_one_is_asked():
    first, taught, slim = chained().arms
    both = replace(chained(), arms=(first, taught, replace(slim, config=taught.config)))
    assert "| teacher | accuracy |" in markdown(both, journal(), "reduced")
    assert [row.teacher for row in rows(both, journal(), "reduced")] == [pytest.approx(0.8), pytest.approx(0.9)]
    assert [row.teacher for row in rows(chained(), journal(), "reduced")] == [pytest.approx(0.8), None]  # the second is of labels alone
    assert "| teacher |" not in markdown(chained(), journal(), "reduced")


def test_a_document_shows_every_figure_and_the_remarks(tmp_path):
    study = replace(chained(), remarks=("Because it is small.",), layers=True)
    files = {file.name for file in write(study, journal(), "reduced", tmp_path)}
    text = (tmp_path / "chained.md").read_text()
    for kind in figures.SAYS:
        assert {f"chained{kind}.svg", f"chained{kind}.png"} <= files
        assert f"](chained{kind}.svg)" in text
    assert "Because it is small." in text
    assert "blocks.0.depthwise" in text
    write(study, journal(), "reduced", tmp_path / "again")
    assert all((tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)


def test_a_page_above_has_the_table_in_its_place(tmp_path):
    study, page = replace(chained(), page="page.md"), tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- study chained -->\n<!-- end -->\n\nAfter.\n")
    assert page in write(study, journal(), "reduced", tmp_path / "studies")
    text = page.read_text()
    assert text.startswith("# Before\n\n<!-- study chained -->\n\n| arm |")
    assert text.endswith("<!-- end -->\n\nAfter.\n")
    assert "| 0.3010 ± 0.0010 |" in text
    write(study, [line | {"setting": "tiny"} for line in journal()], "tiny", tmp_path / "studies")
    assert page.read_text() == text


@pytest.mark.parametrize("file", sorted(DOCUMENTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_committed_document_is_what_its_journal_says(file):
    study = find_study(file.stem)
    entries, text = read(file, study.name, pytest.fail), file.with_suffix(".md").read_text()
    drawn = [f"{study.name}{kind}" for kind in figures.SAYS if file.with_name(f"{study.name}{kind}.svg").is_file()]
    assert text == markdown(study, entries, "reduced", drawn)
    assert not study.page or as_table(frame(study, rows(study, entries, "reduced"))) in (DOCUMENTS.parent / study.page).read_text()


@pytest.mark.parametrize("file", sorted(DOCUMENTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_committed_diagram_has_every_network_of_its_study(file):
    shown = file.with_name(f"{file.stem}-networks.svg").read_text()
    assert [name for name in networks_of(find_study(file.stem)) if f">{name}</text>" not in shown] == []


def test_a_curve_goes_from_the_whole_student_through_what_was_pruned():
    axes = figures.curves(rows(chained(), journal(), "reduced")).axes[0]
    assert next(list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2) == [700, 1000]
    assert axes.get_legend_handles_labels()[1] == ["slimming"]


@pytest.mark.parametrize("name", STUDIES)
def test_every_network_of_a_study_is_drawn_with_all_of_its_parameters_but_loose_norms(name):
    study = find_study(name)
    for network in networks_of(study).values():
        whole, shown = sum(p.numel() for p in network.parameters()), sum(count for _, _, count in boxes(network, 64))
        assert 0.97 * whole < shown <= whole


def test_terms_of_maps_are_drawn_between_the_modules_that_they_name():
    study = find_study("hw13")
    figure = figures.draw_distillation(study, study.arm("boss"))
    says = [text.get_text() for text in figure.axes[0].texts]
    assert "hint × 3" in says
    assert "kd × 10 × p^2(1-p^2), T = 20" in says
