"""The page of a run, made from the folders that real runs leave."""

import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from kit.answers import read_answers
from kit.compress.pack import unpack
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Predict
from kit.data.decode import to_square
from kit.errors import KitError
from kit.models.students import widths_of
from kit.pipeline import run
from kit.report.answered import moves
from kit.report.figures import Line, Plot, plot
from kit.report.learning import accuracy_plot, lost, times
from kit.report.page import again, looks, page
from kit.report.run import read_run
from kit.report.write import report, thumbnail, write_page
from kit.session import open_session
from kit.train.budget import Budget

SECTIONS = (
    "answer", "right", "mistakes", "stages", "curves", "times", "classes", "moves", "agreement", "calibration", "widths", "weights",
    "again",
)  # fmt: skip


class Elements(HTMLParser):
    """Every element with its attributes, its ancestors' too."""

    VOID = ("meta", "link", "img", "br", "path", "rect", "circle")

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), [above for _, above in self.open]))
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag


@pytest.fixture(scope="module")
def html(runs):
    return (runs.done / "report.html").read_text()


def test_a_finished_run_has_every_section(html):
    assert {e["id"] for _, e, _ in Elements(html).found if "id" in e} == set(SECTIONS)


def test_every_figure_has_alternative_text(html):
    figures = [e for tag, e, above in Elements(html).found if tag in ("svg", "img") and not any(a.get("role") == "img" for a in above)]
    assert len(figures) > 20
    assert all(len(e.get("alt") or e.get("aria-label", "")) > 10 for e in figures), figures
    assert all(e["aria-label"] for _, e, _ in Elements(html).found if e.get("role") == "img")
    assert all(e["aria-label"] for tag, e, _ in Elements(html).found if tag == "table" and e.get("class") == "matrix")


def test_the_page_is_small_and_asks_nothing_of_anyone(html):
    assert len(html.encode()) < 2_000_000
    assert not re.search(r"https?:|//[a-z]|@import|<script|url\(", html)
    sources = [e.get("src") or e.get("href") for _, e, _ in Elements(html).found]
    assert all(source is None or source.startswith("data:") for source in sources)
    assert "default-src 'none'" in html


def test_names_of_classes_are_text_and_nothing_else(html):
    assert "&lt;script&gt;x" in html
    assert "a&amp;b" in html
    assert "{{ g }}" in html


def test_the_answer_is_the_runs_own(runs, html):
    record = json.loads((runs.done / "run.json").read_text())
    assert f"{100 * record['validation_accuracy']:.1f}<small>%</small>" in html
    assert f"<dd>{record['bytes']:,}</dd>" in html
    assert "share of 60 validation photos whose class it names" in html
    teacher = f"{100 * record['stages']['teacher']['accuracy']:.1f}"
    assert f'<span class="bar c2" style="--v:{teacher}"></span><b class="value">{teacher}\u202f%</b>' in html
    assert "session 2" in html  # where it went on
    assert "<code>kit report</code> with their folder" in html  # whose name alone is no path to it
    ran = read_run(runs.done)
    limited = page(replace(ran, config=override(ran.config, ["limit=60000params"])))
    assert "limit 60,000" in limited
    assert limited.count("no limit") == 1  # of bytes


@pytest.mark.parametrize(
    ("views", "words"),
    [({}, ""), ({"flip": True}, "with the mirrored photo"), ({"flip": True, "crops": 5}, "over centre and corners, each with its mirror")],
)
def test_it_says_what_the_answers_are_averaged_over(views, words):
    said = looks(Predict(**views))
    assert words in said
    assert bool(said) == bool(words)


def test_a_suspended_run_says_so_and_how_it_goes_on(runs):
    html = (runs.suspended / "report.html").read_text()
    assert '<span class="state suspended">suspended</span>' in html
    assert "Suspended: SIGTERM came" in html
    assert "epochs are left" in html
    assert "<code>--tiny</code> goes through every stage once" in html
    assert "a try, can’t be submitted" in html


def test_a_page_is_drawn_again_from_the_folder_alone_byte_for_byte(runs, html, tmp_path):
    shutil.copytree(runs.done, tmp_path / "done")
    assert write_page(read_run(tmp_path / "done"), tmp_path / "pages" / "page.html").read_text() == html


def test_a_page_replaces_its_own_runs_and_no_other_ones(runs, tmp_path, command, refused):
    for folder in runs:
        shutil.copytree(folder, tmp_path / folder.name)
    command(tmp_path / "done", "report", ".", "--out", "../done/report.html")
    kept = (tmp_path / "suspended" / "report.html").read_bytes()
    for words in (["done"], ["suspended", "done"]):  # what compares several is the page of none
        assert "suspended/report.html is a run's own file" in refused(tmp_path, "report", *words, "--out", "suspended/report.html")
    assert (tmp_path / "suspended" / "report.html").read_bytes() == kept


@pytest.mark.parametrize(
    ("lost", "sections"),
    [
        ("validation.npz", {"classes", "moves", "agreement", "calibration", "right", "mistakes"}),
        ("student.kit", {"weights"}),
        ("checkpoints", {"weights"}),
        ("timing.jsonl", set()),
    ],
)
def test_what_is_lost_costs_its_sections_and_not_the_page(runs, tmp_path, lost, sections):
    out = shutil.copytree(runs.done, tmp_path / "run")
    shutil.rmtree(out / lost) if lost == "checkpoints" else (out / lost).write_bytes(b"PK\3\4 nothing")
    assert {e["id"] for _, e, _ in Elements(page(read_run(out))).found if "id" in e} == set(SECTIONS) - sections


def test_a_folder_without_metrics_is_refused_with_a_remedy(runs, tmp_path):
    shutil.copy(runs.done / "run.json", tmp_path)
    with pytest.raises(KitError, match=r"metrics\.jsonl with an epoch in it.*Run the same `kit run` command again"):
        read_run(tmp_path)


def test_a_run_of_anothers_student_that_trains_nothing_has_a_page(runs, drawn, tmp_path):
    data, begun = runs.done.parent / "photos", runs.done / "student.kit"
    widths = list(widths_of(unpack(begun).student))
    config = override(recipe("sample").tiny(), ["prune=null", "pack.bits=4", f"student.widths={widths}"])
    run(config, data, tmp_path / "packed", cache=tmp_path / "cache", budget=Budget(None), begin=begun)
    html = (tmp_path / "packed" / "report.html").read_text(encoding="utf-8")
    assert 'id="stages"' in html
    assert page(read_run(tmp_path / "packed")) == html


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(KitError, match=r"no run\.json"):
        read_run(tmp_path / "nowhere")


def test_a_line_that_a_kill_left_half_written_is_passed_over(runs, tmp_path):
    out = shutil.copytree(runs.done, tmp_path / "run")
    with open(out / "timing.jsonl", "a") as file:
        file.write('{"session": 2, "sta')
    assert "session 2" in page(read_run(out))


@pytest.mark.parametrize(("file", "key"), [("timing.jsonl", "session"), ("metrics.jsonl", "accuracy"), ("metrics.jsonl", "epoch")])
def test_a_line_with_a_flipped_key_is_passed_over(runs, tmp_path, file, key):
    out = shutil.copytree(runs.done, tmp_path / "run")
    lines = (out / file).read_text().splitlines(keepends=True)
    (out / file).write_text("".join([*lines[:-1], lines[-1].replace(f'"{key}"', f'"{key[:-1]}_"')]))
    assert 'id="stages"' in page(read_run(out))


def test_an_assistant_has_its_own_size(runs, tmp_path):
    out = shutil.copytree(runs.done, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    assert read_run(out).stages[0].parameters == record["stages"]["teacher"]["parameters"] > 11_000_000
    record["stages"]["teacher"] |= {"parameters": 59_451, "macs": 7}
    found = replace(read_run(out), record=record).stages[0]
    assert (found.parameters, found.macs) == (59_451, 7)


def test_each_stage_has_answered_and_none_is_asked_twice(runs):
    answers = read_answers(runs.done / "validation.npz")
    assert set(answers.logits) == {"teacher", "distil", "prune", "finetune", "quantize"}
    accuracy = (answers.logits["quantize"].argmax(1) == answers.labels).mean()
    assert accuracy == json.loads((runs.done / "run.json").read_text())["validation_accuracy"]
    answer = answers.logits["quantize"].argmax(1)
    assert sum(answer[row] != answers.labels[row] for row in answers.thumbnails) == min((answer != answers.labels).sum(), 18)
    right = [answers.labels[row] for row in answers.thumbnails if answer[row] == answers.labels[row]]
    assert sorted(right) == sorted(set(answers.labels[answer == answers.labels]))  # one of each class of which any is known


@pytest.mark.parametrize("side", [16, 128])
def test_a_thumbnail_is_the_photo_and_nothing_that_fills_its_square(tmp_path, side):
    """A photo that is smaller than the cache's squares lies in the corner of one."""
    photo = np.zeros((40, 64, 3), np.uint8)
    photo[:, :32, 0] = photo[:, 32:, 1] = 255  # red and green halves
    Image.fromarray(photo).save(tmp_path / "photo.png")
    shown = Image.open(io.BytesIO(thumbnail(*to_square(tmp_path / "photo.png", side))))
    assert shown.size == (112, 70)
    assert [int(np.argmax(shown.getpixel((x, 35)))) for x in (2, 50, 62, 109)] == [0, 0, 1, 1]


def test_one_class_of_which_a_photo_is_shown_is_one(runs):
    run = read_run(runs.done)
    row = next(row for row in run.answers.thumbnails if run.logits["quantize"][row].argmax() == run.answers.labels[row])
    alone = replace(run, answers=replace(run.answers, thumbnails={row: run.answers.thumbnails[row]}))
    assert "(of the surest 1 class)" in page(alone)


def test_answers_with_a_flipped_bit_are_none(runs, tmp_path):
    whole = read_answers(runs.done / "validation.npz")
    content, file = bytearray((runs.done / "validation.npz").read_bytes()), tmp_path / "validation.npz"
    for at in [*range(len(content) - 600, len(content)), *range(0, len(content), 997)]:  # all of the zip's directory, and some of the rest
        content[at] ^= 1 << (at % 8)
        file.write_bytes(content)
        found = read_answers(file)
        assert found is None or all(np.array_equal(found.logits[stage], whole.logits[stage]) for stage in whole.logits)
        content[at] ^= 1 << (at % 8)


def test_a_page_that_cannot_be_written_is_said_in_a_line_and_fails_nothing(runs, tmp_path):
    out = shutil.copytree(runs.done, tmp_path / "done")
    (out / "report.html").unlink()
    (out / "report.html").mkdir()
    config = override(recipe("sample").tiny(), ["train.epochs=4"])
    record = run(config, runs.done.parent / "photos", out, cache=runs.done.parent / "cache", budget=Budget(None))
    assert record["state"] == "done"
    assert "report.html could not be written" in (out / "log.txt").read_text()


def test_a_session_without_the_time_leaves_the_page_out_and_says_so(tmp_path, log, capsys):
    session = open_session(recipe("record"), tmp_path / "my run", Budget(60), log)
    session.histories["distil"] = [{"epoch": 1}]
    session.budget.longest["page"] = 60
    report(session, object())
    assert f"report.html is left out, there is no time for it: `kit report '{tmp_path}/my run'` writes it" in capsys.readouterr().out
    assert not list((tmp_path / "my run").glob("*.html"))


def test_the_config_is_folded_and_begins_with_what_differs_from_the_recipe(html):
    folded = re.search(r"<details><summary>The config, and what differs from the recipe: (\d+) fields</summary>(.*?)</details>", html, re.S)
    rows = re.findall(r"<tr><td><code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td></tr>", folded[2].partition("<pre>")[0])
    assert len(rows) == int(folded[1])
    assert {("train.epochs", "18", "4"), ("trial", "null", "true")} <= set(rows)


def test_each_stage_says_in_plain_words_what_it_did(html):
    stages = re.findall(r'<th scope="row">(.*?)<small>(.*?)</small></th>', html)
    assert [name for name, _ in stages] == ["teacher", "distilled", "pruned", "fine-tuned", "packed"]
    assert len({words for _, words in stages}) == 5
    assert all(
        word in html for word in ("Agreement is how often", "Expected calibration error (ECE)", "Macro F1, its mean", "Recall: how many")
    )


@pytest.mark.parametrize(
    ("began", "shown"),
    [
        (".venv/bin/kit run record --data 'my photos'", ["kit run record --data 'my photos'"]),
        ("'/home/me/my clone/kit/__main__.py' run record", ["kit run record"]),
        ("script.py", []),
        ("/tmp/kit-0123/kit/remote/kernel.py /tmp/order.json", []),
    ],
)
def test_what_repeats_a_run_is_a_command_of_the_kit(runs, began, shown):
    record = read_run(runs.done).record
    record["sessions"] = [session | {"command": began} for session in record["sessions"]]
    assert again(replace(read_run(runs.done), record=record)) == shown


@pytest.mark.parametrize("place", [0, 1])
def test_a_session_that_was_killed_has_a_line_on_the_page_and_no_figures(runs, tmp_path, place):
    record = json.loads((shutil.copytree(runs.done, tmp_path / "run") / "run.json").read_text())
    killed = {name: record["sessions"][0][name] for name in ("started", "process", "command", "device")}
    record["sessions"] = [*record["sessions"][:place], killed, *record["sessions"][place + 1 :]]
    assert "<td>killed</td>" in page(replace(read_run(tmp_path / "run"), record=record))


def test_a_refused_session_changes_neither_why_the_run_is_suspended_nor_what_repeats_it(runs):
    run = read_run(runs.suspended)
    refused = {"started": "2026-11-29 10:00:00", "command": "kit run sample --data elsewhere", "error": "KitError: …", "ended": "refused"}
    more = replace(run, record=run.record | {"sessions": [*run.record["sessions"], refused]})
    assert "Suspended: SIGTERM came" in page(more)
    assert "<td>refused</td>" in page(more)
    assert again(more) == again(run)


def test_what_was_packed_is_shown_at_its_epoch_and_what_the_later_ones_lost_is_said(runs):
    way = [{"epoch": epoch, "accuracy": accuracy} for epoch, accuracy in enumerate((0.2, 0.6, 0.4), 1)]
    fell = replace(read_run(runs.suspended), histories={"distil": way})
    assert lost(fell, "distil") == {"epoch": 2, "of": 3, "fell": pytest.approx(0.2)}
    assert accuracy_plot(fell, ["distil"]).dots[-1][0] == 2
    assert "Epoch <b>2 of 3</b> was the best" in page(fell)
    assert lost(replace(fell, histories={"distil": way[:2]}), "distil") is None


def test_pruning_has_its_share_of_the_time(runs):
    run = read_run(runs.done)
    session = {"seconds": 100, "seconds_by_kind": {"step": 60, "prune": 30}}
    parts = times(replace(run, record=run.record | {"sessions": [session, session]}))
    assert parts == [("training steps", 120), ("pruning", 60), ("starting, packing, the rest", 20)]


def test_of_many_steps_the_first_and_the_last_have_a_column(runs):
    many, known = read_run(runs.done), read_run(runs.done).stages
    many.__dict__["stages"] = [*known[:2], *[replace(known[2], name=f"step {i}") for i in range(5)], *known[-2:]]
    found = moves(many)
    assert [stage.name for stage in found["stages"]] == ["teacher", "distilled", "step 4", "fine-tuned", "packed"]
    assert found["left_out"] == 4
    assert {len(row["values"]) for row in found["rows"]} == {5}
    assert moves(read_run(runs.done))["left_out"] == 0


def test_a_stage_that_is_half_done_shows_its_best_epoch(runs):
    history = [{"accuracy": 0.2}, {"accuracy": 0.5}, {"accuracy": 0.4}, {"loss": 1.0}]
    assert replace(read_run(runs.suspended), histories={"distil": history}).best_so_far("distil") == 0.5


@pytest.mark.parametrize(("level", "place"), [(0.5, "on"), (0.96, "on under")])
def test_a_level_near_the_top_leaves_the_place_above_the_plot_to_the_stages(level, place):
    drawn = plot(Plot("", [Line("student", [(1, 0.0), (9, 0.9)])], borders=[(5, "fine-tuning")], level=(level, "teacher")))
    assert re.search(r'<span class="([a-z ]+)" style="top:[\d.]+%">teacher</span>', drawn)[1] == place


def test_an_epoch_that_was_not_is_no_tick_and_the_only_one_is():
    ticked = lambda last: re.findall(r'class="x".*?>(.*?)<', plot(Plot("", [Line("student", [(x, 0.5) for x in range(1, last + 1)])])))  # noqa: E731
    assert (ticked(1), ticked(3), ticked(40)) == (["1"], ["1", "2", "3"], ["10", "20", "30", "40"])


def test_what_follows_a_class_that_is_read_from_the_right_stays_where_it_is(runs):
    """Without a border around the name the number would be shown before it, and an arrow point the other way."""
    run = read_run(runs.done)
    named = page(replace(run, answers=replace(run.answers, classes=tuple("אבגדהו"))))
    assert re.search(r"<bdi>[א-ת]</bdi>(</b>: |, )\d", named)
    assert not re.search(r"[א-ת](</b>|</span>)?([:,] \d| →)", named)


def test_the_labels_of_many_steps_do_not_run_into_each_other_on_a_phone():
    marks = [(x, "fine-tuning") for x in (1, 3, 5, 7)] + [(2, "session 2"), (6, "session 3")]
    drawn = plot(Plot("", [Line("student", [(0, 0.0), (10, 0.9)])], borders=marks))
    assert re.findall(r'class="at" style="left:([\d.]+)%">(.*?)<', drawn) == [("10.00", "fine-tuning"), ("60.00", "session 3")]
    assert drawn.count('class="border"') == len(marks)
