"""Handing in on a Kaggle on loopback: once, with its making, and the score beside the validation accuracy."""

import io
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from server import DROP_AFTER, DROP_BEFORE, KEY, Server, Silence, loopback

from kit.cli.kaggle import as_table
from kit.config.competitions import COMPETITIONS, Competition
from kit.data.folders import read_folder
from kit.errors import KitError
from kit.files import sha256_of
from kit.ledger import COLUMNS, enter, file_away, read
from kit.remote.client import connect
from kit.remote.submit import WHEN, fetch_scores, line, read_entry, submit, wait_for_score
from kit.submission import write_csv

MADE = {"recipe": "record", "state": "done", "competition": "hw13-2023", "commit": "0123456789ab+", "parameters": 59451, "bytes": 61665}


@pytest.fixture
def server(monkeypatch):
    yield from loopback(monkeypatch, Server())


@pytest.fixture
def kaggle(server):
    client = connect()
    client.api.args = ["--local"]
    return type(client)(client.api, lambda seconds: None)


@pytest.fixture
def run(tmp_path):
    """What a run leaves: a CSV of 2,218 rows and where it came from."""
    folder = tmp_path / "runs" / "record"
    folder.mkdir(parents=True)
    write(folder / "submission.csv", 0)
    made = MADE | {"validation_accuracy": 0.5232, "csv_sha256": sha256_of(folder / "submission.csv"), "problems": []}
    (folder / "provenance.json").write_text(json.dumps(made))
    return folder


def write(file, shift, rows=2218):
    file.write_text("Id,Category\n" + "".join(f"{i:04d},{(i + shift) % 11}\n" for i in range(rows)))


def hand_in(place, kaggle, tmp_path, **how):
    said = []
    submit(read_entry(place, None, said.append), replace(kaggle, say=said.append), tmp_path / "submissions", **how)
    return said


@pytest.fixture
def submissions(tmp_path):
    (tmp_path / "submissions").mkdir()
    return tmp_path / "submissions"


def test_a_csv_is_handed_in_with_its_making_and_its_score_is_kept(run, kaggle, server, submissions, tmp_path):
    said = hand_in(run, kaggle, tmp_path)
    (sent,) = server.submissions
    assert sent["content"] == (run / "submission.csv").read_bytes()
    assert sent["description"].startswith("record (done), commit 0123456789ab+, 59,451 parameters, 61,665 bytes, validation 0.5232, csv ")
    assert "4 more today" in said[0]
    assert said[1] == "public score 0.50000, validation said 0.5232 (-0.0232)"
    (line,) = read(submissions)
    assert (line["ref"], line["public_score"], line["submission"]) == ("100", "0.50000", "record")


def test_the_same_file_is_not_sent_twice_whether_the_ledger_or_kaggle_knows_it(run, kaggle, server, submissions, tmp_path):
    hand_in(run, kaggle, tmp_path)
    with pytest.raises(KitError, match=r"was handed in on .* as 100, public score 0\.50000"):
        hand_in(run, kaggle, tmp_path)
    (submissions / "ledger.csv").unlink()
    with pytest.raises(KitError, match="Kaggle's list says"):
        hand_in(run / "submission.csv", kaggle, tmp_path)
    assert len(server.submissions) == 1
    assert read(submissions)[0]["public_score"] == "0.50000"


def test_the_ledger_says_in_utc_when_a_csv_was_handed_in_as_kaggle_does(run, kaggle, server, submissions, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Nowhere-9")
        time.tzset()
        hand_in(run, kaggle, tmp_path, wait=False)
    time.tzset()
    when = datetime.strptime(read(submissions)[0]["handed_in"], WHEN).replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - when).total_seconds()) < 600


@pytest.mark.parametrize("fault", [503, DROP_BEFORE, DROP_AFTER])
def test_an_answer_that_is_lost_costs_no_second_submission(run, kaggle, server, submissions, tmp_path, fault):
    server.faults["CreateSubmission"].append(fault)
    server.faults["upload"].extend([503, 500])
    hand_in(run, kaggle, tmp_path)
    assert len(server.submissions) == 1
    assert server.calls.count("upload") == 3


def test_a_file_that_is_handed_in_from_two_terminals_at_once_is_sent_once(run, kaggle, server, submissions, tmp_path):
    server.faults["StartSubmissionUpload"].append(Silence(0.5))
    with ThreadPoolExecutor() as two:
        both = [two.submit(hand_in, run, kaggle, tmp_path, wait=False) for _ in range(2)]
    assert [str(one.exception())[-24:] for one in both if one.exception()] == ["It is in the ledger now."]
    assert len(server.submissions) == 1


def test_a_file_that_is_named_from_its_own_folder_has_that_folders_name_in_the_ledger(run, kaggle, submissions, tmp_path, monkeypatch):
    monkeypatch.chdir(run)
    hand_in(Path(), kaggle, tmp_path, wait=False)
    assert read(submissions)[0]["submission"] == "record"


def test_what_was_handed_in_is_said_where_the_ledger_can_not_be_written(run, kaggle, submissions):
    (submissions / "ledger.csv").mkdir()
    said = []
    with pytest.raises(KitError, match=r"ledger\.csv can't be written"):
        submit(read_entry(run, None, print), replace(kaggle, say=said.append), submissions)
    assert said[0].startswith("handed in to ml2023spring-hw13 as 100")


def test_an_answer_that_is_lost_at_the_last_try_is_asked_for(run, kaggle, server, submissions, tmp_path):
    server.faults["CreateSubmission"].extend([DROP_BEFORE] * 4 + [DROP_AFTER])
    assert "handed in to ml2023spring-hw13 as 100" in hand_in(run, kaggle, tmp_path)[-2]
    assert len(server.submissions) == 1


def test_what_kaggles_list_never_shows_is_not_waited_for_for_ever(run, kaggle, server, submissions, tmp_path):
    server.faults["ListSubmissions"].extend([b"{}"] * 999)  # an empty list
    with pytest.raises(KitError, match=r"is handed in, without a score after 30 minutes\. `kit ledger` asks"):
        hand_in(run, kaggle, tmp_path)
    assert read(submissions)[0]["ref"] == "100"


def test_a_list_that_tells_no_date_refuses_a_second_time_too(run, kaggle, server, submissions, tmp_path):
    hand_in(run, kaggle, tmp_path)
    (submissions / "ledger.csv").unlink()
    del server.submissions[0]["date"]
    with pytest.raises(KitError, match="was handed in as 100, Kaggle's list says"):
        hand_in(run, kaggle, tmp_path)


def test_what_can_not_be_handed_in_is_refused_before_anything_is_sent(run, kaggle, server, submissions, tmp_path):
    made = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps(made | {"problems": ["99,891 parameters are over"]}))
    with pytest.raises(KitError, match="99,891 parameters are over"):
        hand_in(run, kaggle, tmp_path)
    write(run / "submission.csv", 1)
    (run / "submission.csv").write_text((run / "submission.csv").read_text().replace("0000,", "0,"))
    with pytest.raises(KitError, match="lost their padding"):
        hand_in(run, kaggle, tmp_path)
    with pytest.raises(KitError, match=r"There is no .*nowhere"):
        hand_in(tmp_path / "nowhere", kaggle, tmp_path)
    with pytest.raises(KitError, match=r"is not one on Kaggle\. Name yours: --competition hw13-2023"):
        read_entry(run, "any", print)
    assert server.calls == []


def test_the_limit_is_that_of_the_competition_that_it_is_handed_in_to(run):
    file = run / "provenance.json"
    made = {"parameters": 99_891, "problems": ["99,891 parameters are over hw13-2023's limit of 60,000"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | made | {"competition": "any", "problems": []}))
    with pytest.raises(KitError, match="99,891 parameters are over hw13-2023's limit of 60,000"):
        read_entry(run, "hw13-2023", print)
    write(run / "submission.csv", 0, 3347)
    file.write_text(json.dumps(json.loads(file.read_text()) | made | {"csv_sha256": sha256_of(run / "submission.csv")}))
    assert read_entry(run, "hw13-2022", print).competition == "hw13-2022"


@pytest.mark.parametrize(
    ("field", "value"),
    [("parameters", "many"), ("validation_accuracy", "0.5"), ("problems", None), ("competition", 5), ("csv_sha256", 7), ("recipe", None)],
)
def test_a_provenance_with_other_types_is_named_with_its_field(run, field, value):
    file = run / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(KitError, match=rf"{file} is not as a run writes it: {field}: .* \(got {value!r}\)\. Move it away"):
        read_entry(run, None, print)


@pytest.fixture
def pets(monkeypatch, drawn, run):
    """A competition of one's own, as docs/your-own-photos.md has it: its photos alone tell ids and classes."""
    rules = Competition("Pets of the town", columns=("image", "label"), slug="pets-of-the-town")
    monkeypatch.setitem(COMPETITIONS, "pets", rules)
    csv = run / "submission.csv"
    write_csv(csv, [file.stem for file in read_folder(drawn / "evaluation").photos], np.arange(24) % 6, rules)
    (run / "provenance.json").write_text(json.dumps(MADE | {"competition": "pets", "csv_sha256": sha256_of(csv), "problems": []}))
    return csv


def test_a_csv_of_ones_own_competition_is_handed_in_as_its_run_checked_it(pets, kaggle, server, submissions, tmp_path):
    assert hand_in(pets.parent, kaggle, tmp_path)[0].startswith("handed in to pets-of-the-town as 100: record (done)")


def test_one_that_no_run_checked_is_compared_with_the_photos(pets, drawn):
    (pets.parent / "provenance.json").unlink()
    with pytest.raises(KitError, match="names no classes: give --data"):
        read_entry(pets, "pets", print)
    assert read_entry(pets, "pets", print, drawn).mark
    pets.write_text(pets.read_text().replace("0000,", "0,"))
    with pytest.raises(KitError, match="lost their padding"):
        read_entry(pets, "pets", print, drawn)


def test_a_csv_that_was_edited_goes_without_a_history(run, kaggle, server, submissions, tmp_path):
    write(run / "submission.csv", 1)
    said = hand_in(run, kaggle, tmp_path)
    assert "is not the file that provenance.json beside it tells of" in said[0]
    assert server.submissions[0]["description"].startswith("csv ")


def test_a_csv_that_was_edited_is_still_its_runs_competitions(run):
    made = json.loads((run / "provenance.json").read_text()) | {"competition": "hw7-2020"}
    (run / "provenance.json").write_text(json.dumps(made))
    write(run / "submission.csv", 1)
    with pytest.raises(KitError, match=r"2,218 rows, wanted are 3,347"):
        read_entry(run, None, print)


def test_what_was_handed_in_out_of_a_chains_folder_has_that_ones_name_until_it_is_pulled(run, kaggle, submissions, tmp_path):
    output = (tmp_path / "runs" / "chain-record").joinpath("output")
    shutil.copytree(run, output)
    hand_in(output, kaggle, tmp_path)
    assert read(submissions)[0]["submission"] == "chain-record"
    file_away(submissions, "2026-11-29-record", output / "submission.csv", MADE)
    assert [one["submission"] for one in read(submissions)] == ["2026-11-29-record"]
    enter(submissions, line(read_entry(run, None, print)))  # its run's folder at home says so once more
    assert [one["submission"] for one in read(submissions)] == ["2026-11-29-record"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"numToday": 5, "numTotal": 9}, r"no more submissions today \(5 were handed in\)\. The day begins anew at 00:00 UTC\. Nothing"),
        ({"numToday": 2, "numTotal": 60, "limitedByTotal": True}, r"no more submissions: 60 were handed in, which is its limit\."),
        ({}, "takes no submission of this account. If it is not over, join ml2023spring-hw13 and accept its rules, https://"),
    ],
    ids=["today", "ever", "not joined"],
)
def test_why_nothing_can_be_handed_in_is_said_before_the_upload(limits, words, run, kaggle, server, submissions, tmp_path):
    server.faults["GetSubmissionLimits"].append(json.dumps(limits).encode())
    with pytest.raises(KitError, match=words):
        hand_in(run, kaggle, tmp_path)
    assert "upload" not in server.calls


def test_refusals_and_failed_scoring_come_in_kaggles_words(run, kaggle, server, submissions, tmp_path):
    server.faults["GetSubmissionLimits"].append(403)
    with pytest.raises(
        KitError, match=r"join ml2023spring-hw13 and accept its rules, https://www.kaggle.com/competitions/ml2023spring-hw13/rules"
    ):
        hand_in(run, kaggle, tmp_path)
    server.faults["upload"].extend([400])
    with pytest.raises(KitError, match=r"could not be uploaded \(400"):
        hand_in(run, kaggle, tmp_path)
    server.score = None
    with pytest.raises(KitError, match=r"could not score .*: bad ids"):
        hand_in(run, kaggle, tmp_path)


@pytest.mark.parametrize("lost", [False, True])
def test_a_csv_that_kaggle_could_not_score_may_be_handed_in_again(run, kaggle, server, submissions, tmp_path, lost):
    server.score = None
    with pytest.raises(KitError, match=r"could not score .*100\): bad ids"):
        hand_in(run, kaggle, tmp_path)
    if lost:
        (submissions / "ledger.csv").unlink()
    server.score = "0.61000"
    server.faults["CreateSubmission"].append(DROP_AFTER)  # the one that failed is not the one that is asked for
    assert hand_in(run, kaggle, tmp_path)[-1].startswith("public score 0.61000")
    (line,) = read(submissions)
    assert (line["ref"], line["public_score"], len(server.submissions)) == ("101", "0.61000", 2)
    with pytest.raises(KitError, match=r"as 101, public score 0\.61000"):
        hand_in(run, kaggle, tmp_path)


def test_a_csv_whose_score_is_not_there_yet_is_not_sent_twice(run, kaggle, server, submissions, tmp_path):
    hand_in(run, kaggle, tmp_path, wait=False)
    with pytest.raises(KitError, match="was handed in on 2026-11-21 as 100, Kaggle's list says"):
        hand_in(run, kaggle, tmp_path)
    server.submissions.clear()
    with pytest.raises(KitError, match="as 100; `kit ledger` fetches its score"):
        hand_in(run, kaggle, tmp_path)


def test_scores_that_were_not_waited_for_are_fetched_later(run, kaggle, server, submissions, tmp_path):
    assert len(hand_in(run, kaggle, tmp_path, wait=False)) == 1
    for _ in range(2):
        fetch_scores(kaggle, submissions)
    assert read(submissions)[0]["public_score"] == "0.50000"


@pytest.mark.parametrize("public", ["0.50000", ""])
def test_a_private_score_that_comes_after_the_deadline_has_its_own_column(run, kaggle, server, submissions, tmp_path, public):
    """With the public one, long after it, or alone; fetched, or found where the ledger was lost."""
    hand_in(run, kaggle, tmp_path, wait=False)
    shown = lambda: [(line["public_score"], line["private_score"]) for line in read(submissions)]  # noqa: E731
    server.submissions[0] |= {"status": "COMPLETE", "publicScore": public}
    for private in ("", "0.49000"):
        server.submissions[0]["privateScore"] = private
        fetch_scores(kaggle, submissions)
        assert shown() == [(public, private)]
    (submissions / "ledger.csv").unlink()
    with pytest.raises(KitError, match="Kaggle's list says"):
        hand_in(run, kaggle, tmp_path)
    assert shown() == [(public, "0.49000")]


def test_a_private_score_alone_is_said(run, kaggle, server, submissions, tmp_path):
    hand_in(run, kaggle, tmp_path, wait=False)
    server.submissions[0] |= {"status": "COMPLETE", "privateScore": "0.49000"}
    said = []
    wait_for_score(read_entry(run, None, print), replace(kaggle, say=said.append), submissions, set())
    assert said == ["public score not shown, private score 0.49000"]


def test_a_csv_that_kaggle_could_not_score_is_told_of_when_scores_are_fetched(run, kaggle, server, submissions, tmp_path):
    hand_in(run, kaggle, tmp_path, wait=False)
    server.submissions[0] |= {"status": "ERROR", "errorDescription": "bad ids"}
    said = []
    fetch_scores(replace(kaggle, say=said.append), submissions)
    assert said == ["Kaggle could not score record (100): bad ids."]


def test_the_commands_hand_in_and_show_the_ledger(run, server, tmp_path):
    words = [sys.executable, "-m", "kit"]
    how = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([*words, "submit", str(run), "--no-wait"], **how)
    assert "handed in to ml2023spring-hw13 as 100" in done.stdout, done.stderr
    server.faults["ListSubmissions"].append(403)  # what is known is shown all the same
    table = subprocess.run([*words, "ledger"], **how)
    assert ("0.5232" in table.stdout, "(403)" in table.stderr, table.returncode) == (True, True, 1), table.stderr
    assert not (run / "ledger.csv").exists()
    assert KEY not in done.stdout + done.stderr + table.stdout + table.stderr


def test_the_ledger_is_read_in_80_columns():
    one = {"submission": "2026-11-21-a-rather-[long]-name", "date": "2026-11-21 03:00:00", "parameters": "59674", "bytes": "261401"}
    one |= {"validation_accuracy": "0.52321", "public_score": "0.51938", "handed_in": "2026-11-22 04:00:00"}
    for private in ("", "0.51111"):
        page = io.StringIO()
        Console(file=page, width=80).print(as_table([dict.fromkeys(COLUMNS, "") | one | {"private_score": private}]))
        rows = [line.split(" ", 1) for line in page.getvalue().splitlines()[3:]]
        assert rows[0][1].split() == ["11-21", "59674", "261401", "0.5232", "0.51938", "-0.0038", *private.split(), "11-22"]
        assert "".join(name for name, _ in rows) == one["submission"]
