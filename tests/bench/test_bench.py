"""Every benchmark on a few drawn photos: what it writes, not what the numbers are."""

import json
import re
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from kit.bench import outcome as outcomes
from kit.bench.catalogue import BENCHES, run
from kit.bench.clock import Timed, Way, always, measure
from kit.bench.feed import kept_feed
from kit.bench.material import decoded, training_photos
from kit.bench.outcome import Outcome, Row
from kit.bench.roofline import Layer, Rates, floor, layers_of, measure_rates
from kit.bench.save import cost_of, in_training, save_next
from kit.bench.step import LIVE, shares
from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.config.override import override
from kit.config.recipes import recipe
from kit.console import Log
from kit.data.order import Order
from kit.device import choose_device
from kit.errors import KitError
from kit.files import fill_place
from kit.models.students import build_student
from kit.models.widths import widths_for
from kit.train.budget import Budget
from kit.train.checkpoint import Checkpoints
from kit.train.loop import fit

SMALL = ["data.image_size=32", "data.cache_size=32", "train.batch_size=16", "data.workers=1"]
CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, where the step is compiled
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in ("feed", "step") else []) for name in BENCHES])
def test_a_benchmark_has_a_value_for_each_way_and_round_and_says_what_it_was_measured_on(name, drawn, tmp_path):
    rounds = 1 if name in ("feed", "step") else 2  # theirs take long
    found = run(name, override(recipe("boss"), SMALL), drawn, tmp_path / "cache", rounds=rounds, seconds=0.01)
    assert found.baseline in [row.way for row in found.rows]
    assert all(len(row.values) == rounds and min(row.values) > 0 for row in found.rows)
    assert found.made.keys() >= {"command", "commit", "device", "cores", "threads", "torch"}
    outcomes.write(found, tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == asdict(found)
    assert list((tmp_path / "cache").glob(".bench-*")) == []


def test_the_verb_writes_json_a_table_and_its_part_of_a_page(tmp_path):
    own, page, words = tmp_path / "mine.py", tmp_path / "page.md", [f"--set={value}" for value in SMALL]
    own.write_text("from kit.config.recipes import boss as recipe\n")
    page.write_text("before\n<!-- bench save -->\nof last time\n<!-- end -->\nafter\n<!-- bench feed -->\n<!-- end -->\n")
    where = ["--cache", str(tmp_path / "c"), "--json", str(tmp_path / "save.json"), "--page", str(page), "--recipe", str(own)]
    done = CliRunner().invoke(app, ["bench", "save", *where, "--rounds", "1", *words])
    assert done.exit_code == 0, done.output
    value = json.loads((tmp_path / "save.json").read_text())
    assert [row["way"] for row in value["rows"]] == ["kit", "torch.save"]
    text = page.read_text()
    assert text.startswith("before\n<!-- bench save -->\n\n| way | ms, median |")
    assert text.endswith("<!-- end -->\nafter\n<!-- bench feed -->\n<!-- end -->\n")
    assert "of last time" not in text


def test_mistakes_are_named(drawn, tmp_path):
    with pytest.raises(KitError, match=r"no benchmark 'fed'.*feed, ingest"):
        run("fed", recipe("boss"), drawn, tmp_path, 1)
    with pytest.raises(KitError, match=r"120 photos, a batch is 128.*train.batch_size=120"):
        run("feed", recipe("boss"), drawn, tmp_path, 1)
    with pytest.raises(KitError, match="needs --data DIR"):
        run("feed", recipe("boss"), None, tmp_path, 1)
    (tmp_path / "page.md").write_text("nothing")
    (tmp_path / "run.json").write_text("of a run")
    for name, file, page, says in (
        ("save", "run.json", "page.md", "Give --json another"),
        ("save", "a.json", "page.md", "bench save"),
        ("save", "a.json", "no.md", "no.md"),
        ("fed", "a.json", "page.md", "no benchmark 'fed'"),
    ):
        words = ["bench", name, "--data", str(drawn), "--cache", str(tmp_path / "c")]
        done = CliRunner().invoke(app, [*words, "--json", str(tmp_path / file), "--page", str(tmp_path / page)])
        assert isinstance(done.exception, KitError)
        assert says in str(done.exception)
    assert not (tmp_path / "c").exists()  # nothing was measured
    with pytest.raises(KitError, match=r"no place for this table.*bench x"):
        fill_place(tmp_path / "page.md", "bench x", "")


def test_every_way_is_timed_in_every_round_and_ratios_are_of_one_round():
    calls = {"a": 0, "b": 0}

    def work(name):
        calls[name] += 1
        torch.randn(2_000 if name == "a" else 200_000).sum()

    timed = measure([Way(name, "", always(lambda name=name: work(name)), least=3) for name in calls], 4, CPU, seconds=0.002)
    assert all(len(one.seconds) == 4 for one in timed)
    assert statistics.median(timed[0].seconds) < statistics.median(timed[1].seconds)
    assert min(calls.values()) >= 4 * (1 + 3 + 3)
    rows = [Row("a", "", [10.0, 20.0, 40.0]), Row("b", "", [5.0, 10.0, 10.0])]
    assert [line[3] for line in outcomes.cells(Outcome("n", "", "ms", "b", rows, {}))] == ["2.00 (2.00–4.00)", "1"]


def test_the_feeds_share_is_the_median_of_the_rounds():
    assert shares([Row("feed", "", [1.0, 9.0, 2.0]), Row(LIVE, "", [10.0, 10.0, 10.0])]) == {"the feed's share of a step": "20.0%"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, where the step would be compiled
@pytest.mark.parametrize(
    ("name", "who"),
    [("simple", "student and optimiser"), pytest.param("boss", "teacher, student and optimiser", marks=pytest.mark.slow)],
)
def test_a_step_is_charged_for_a_teacher_where_a_term_looks_at_one(name, who, drawn, tmp_path):
    with torch.compiler.set_stance("force_eager"):  # compiling takes its time, and is tried above
        found = run("step", override(recipe(name), SMALL), drawn, tmp_path, rounds=1, seconds=0.01)
    says = {row.way: row.says for row in found.rows}
    assert says[LIVE] == f"{who} on a new batch each"
    least = re.findall(r"(\w+) [\d.]+[,)]", found.facts["floor of a step by these"])
    assert [part for part in ("feed", "teacher", "student") if part in says] == least == ["feed", *who.split(" and")[0].split(", ")]


def test_a_checkpoint_is_as_large_as_one_in_the_middle_of_training_and_a_generation_of_its_own(tmp_path):
    """A real one from the third epoch on: a step an epoch, each of which is saved."""
    student, device, batch = build_student("boss", widths_for(recipe("boss").student, 11), 11), choose_device(), torch.zeros(2, 3, 32, 32)
    plan = override(recipe("boss"), ["train.save_seconds=0", "train.epochs=3"]).train
    checkpoints = Checkpoints(tmp_path, "distil", {}, {}, Log(silent=True))
    of_files = lambda: [saved.path.stat().st_size for saved in checkpoints.files()]  # noqa: E731
    fit(
        student,
        lambda images, labels, progress: ((loss := student(images).square().mean()), {"loss": loss}),
        lambda step: (batch, torch.zeros(2, dtype=torch.int64)),
        lambda model: {"accuracy": 0.5},
        steps_per_epoch=1,
        train=plan,
        checkpoints=checkpoints,
        budget=Budget(None),
        device=device,
        log=Log(silent=True),
        on_epoch=lambda history, seconds: None,
    )
    real = of_files()[-1]
    checkpoints.clear()
    state = in_training(recipe("boss"), device)
    for _ in range(3):
        save_next(state, checkpoints)
    sizes = of_files()
    assert sizes == [pytest.approx(real, rel=0.01)] * 2


def test_photos_are_those_that_a_run_would_take(drawn, tmp_path):
    """Of a folder of photos alone, too: the recipe's share, and a photo that doesn't decode as the recipe has it."""
    alone = tmp_path / "alone"
    shutil.copytree(drawn / "evaluation", alone)
    photos = lambda *words: training_photos(alone, override(recipe("boss"), [*SMALL, *words]))  # noqa: E731
    assert (len(photos()), len(photos("data.subset=0.75"))) == (24, 18)
    bad = sorted(alone.iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(KitError, match=rf"{bad} for one.*data\.skip_bad=true"):
        photos()
    assert set(alone.iterdir()) - set(photos("data.skip_bad=true").paths) == {bad}


def test_the_memory_that_is_told_is_of_the_feed_that_is_named(drawn, tmp_path):
    config = override(recipe("boss"), [*SMALL, "data.feed=stream"])
    split = training_photos(drawn, config)
    feed = kept_feed(config, decoded(split, config, tmp_path), Order(len(split), 16, 0), CPU)
    assert "are mapped" in feed.says


def test_a_floor_is_the_longer_of_arithmetic_and_memory_of_each_layer():
    layers, rates = [Layer(flops=100, numbers=1, passes=1), Layer(flops=1, numbers=100, passes=3)], Rates(flops=10, bandwidth=20)
    assert floor(layers, rates, torch.float16) == 100 / 10 + 3 * 100 * 2 / 20
    assert floor(layers, rates, torch.float32) == 100 / 10 + 3 * 100 * 4 / 20


def test_a_frozen_stem_owes_no_gradient_and_what_follows_it_none_of_its_input():
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)))
    network[0].requires_grad_(False)
    assert [layer.passes for layer in layers_of(network, torch.zeros(1, 3, 4, 4))] == [1, 2, 3]
    assert [layer.passes for layer in layers_of(network.requires_grad_(False), torch.zeros(1, 3, 4, 4))] == [1, 1, 1]


def test_layers_and_rates_are_counted():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5, bias=False))
    conv, linear = layers_of(network, torch.zeros(2, 3, 6, 6))
    assert (conv.flops, conv.numbers) == (2 * 2 * 8 * 36 * 27, 2 * 3 * 36 + 2 * 8 * 36 + 216)
    assert linear.flops == 2 * 2 * 5 * 8 * 36
    found = measure_rates(CPU, torch.float32)
    assert found.flops > 1e8
    assert found.bandwidth > 1e8


def test_the_document_has_a_place_for_every_benchmark():
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert all(text.count(f"<!-- bench {name} -->\n") == 1 for name in BENCHES)


def test_a_figure_has_three_digits_that_count():
    shown = [outcomes.number(value) for value in (0.0163, 0.04, 0.5, 9.994, 9.996, 99.94, 99.97, 131.5, 79_200)]
    assert shown == ["0.0163", "0.0400", "0.50", "9.99", "10.0", "99.9", "100", "132", "79,200"]


def test_rates_are_of_the_unit_in_a_second_and_times_in_milliseconds():
    timed = [Timed(Way("a", "", always(list), amount=128), [0.5, 2.0])]
    assert [row.values for row in outcomes.rates(timed)] == [[256.0, 64.0]]
    assert [row.values for row in outcomes.milliseconds(timed)] == [[500.0, 2_000.0]]


def test_what_a_checkpoint_costs_is_told_of_the_time_between_two_or_of_each_step():
    assert cost_of(0.3, 60) == {"one every 60 s (train.save_seconds)": "0.500% of the time"}
    assert cost_of(0.3, 0) == {"one after each step": "300 ms more"}
