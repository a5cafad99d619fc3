"""submissions/ as a person finds it after weeks: a folder and a line for each CSV, and what was handed in stays."""

import shutil
from threading import Barrier, Thread

import pytest

from kit.errors import KitError
from kit.ledger import COLUMNS, day, enter, file_away, four_places, gap, read


@pytest.fixture
def csv(tmp_path):
    def write(answer):
        file = tmp_path / f"{answer}.csv"
        file.write_text(f"Id,Category\n0000,{answer}\n")
        return file

    return write


def shown(folder, *names):
    return [tuple(line[name] for name in names) for line in read(folder)]


def test_a_filed_submission_has_its_making_and_one_line(csv, tmp_path):
    folder = tmp_path / "submissions"
    for answer, state in ((1, "suspended"), (2, "done")):
        place = file_away(folder, "record-1", csv(answer), {"recipe": "record", "state": state, "validation_accuracy": 0.5})
    file_away(folder, "boss-2", csv(3), {"recipe": "boss", "state": "done"})
    assert (place / "submission.csv").read_bytes() == csv(2).read_bytes()
    assert shown(folder, "submission", "state") == [("record-1", "done"), ("boss-2", "done")]
    assert file_away(folder, "cats/dogs-3", csv(4), {}) == folder / shown(folder, "submission")[-1][0]


@pytest.mark.parametrize(("state", "ref"), [("suspended", "7"), ("done", "7"), ("done", "")])
def test_a_csv_that_is_final_or_was_handed_in_stays_and_the_next_ones_folder_gets_a_number(csv, tmp_path, state, ref):
    first = file_away(tmp_path, "record-1", csv(1), {"state": state})
    enter(tmp_path, {"csv_sha256": read(tmp_path)[0]["csv_sha256"], "ref": ref})
    second = file_away(tmp_path, "record-1", csv(2), {"state": "done"})
    assert [(place / "submission.csv").read_bytes() for place in (first, second)] == [csv(1).read_bytes(), csv(2).read_bytes()]
    assert shown(tmp_path, "submission", "ref") == [("record-1", ref), ("record-1-2", "")]
    assert file_away(tmp_path, "record-1", csv(2), {"state": "done"}) == second


def test_what_was_handed_in_keeps_its_line_when_its_folder_gets_another_csv(csv, tmp_path):
    file_away(tmp_path, "record-1", csv(1), {"validation_accuracy": 0.5})
    (line,) = read(tmp_path)
    enter(tmp_path, {"csv_sha256": line["csv_sha256"], "ref": "7", "public_score": "0.45"})
    file_away(tmp_path, "record-1", csv(2), {"validation_accuracy": 0.6})
    assert shown(tmp_path, "ref", "validation_accuracy", "public_score") == [("7", "0.5", "0.45"), ("", "0.6", "")]
    assert [gap(line) for line in read(tmp_path)] == [pytest.approx(-0.05), None]


def test_two_runs_that_end_at_once_under_one_name_both_keep_their_csv(csv, tmp_path):
    places = {}

    def end(answer):
        together.wait()
        places[answer] = file_away(tmp_path / "submissions", "record-1", csv(answer), {"state": "done"})

    for _ in range(20):
        shutil.rmtree(tmp_path / "submissions", ignore_errors=True)
        together = Barrier(2)
        threads = [Thread(target=end, args=(answer,)) for answer in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(places[answer] / "submission.csv").read_bytes() for answer in (1, 2)] == [csv(1).read_bytes(), csv(2).read_bytes()]


def test_a_score_leaves_a_line_where_it_was(csv, tmp_path):
    for answer in (1, 2, 3):
        file_away(tmp_path, f"record-{answer}", csv(answer), {})
    enter(tmp_path, {"csv_sha256": read(tmp_path)[0]["csv_sha256"], "public_score": "0.45"})
    assert shown(tmp_path, "submission", "public_score") == [("record-1", "0.45"), ("record-2", ""), ("record-3", "")]


def test_a_ledger_of_an_older_kit_is_read_with_what_it_has(tmp_path, csv):
    (tmp_path / "ledger.csv").write_text("submission,date,csv_sha256\nold-1,2026-01-01,00ff\n")
    file_away(tmp_path, "new-2", csv(1), {})
    assert shown(tmp_path, "submission", "csv_sha256")[0] == ("old-1", "00ff")
    assert (tmp_path / "ledger.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_a_column_that_a_person_has_added_is_kept(tmp_path, csv):
    (tmp_path / "ledger.csv").write_text("submission,csv_sha256,notes\nold-1,00ff,mine\n")
    file_away(tmp_path, "new-2", csv(1), {})
    assert shown(tmp_path, "submission", "notes") == [("old-1", "mine"), ("new-2", "")]


def test_a_final_csv_whose_folder_was_renamed_keeps_its_line(tmp_path, csv):
    file_away(tmp_path, "record-1", csv(1), {"state": "done"}).rename(tmp_path / "the-best")
    file_away(tmp_path, "record-1", csv(2), {"state": "done", "validation_accuracy": 0.6})
    assert shown(tmp_path, "validation_accuracy") == [("",), ("0.6",)]


@pytest.mark.parametrize(
    ("text", "words"), [("", r"ledger\.csv can't be read"), ("submission,csv_sha256\nold-1,00ff,mine\n", "more fields than the first one")]
)
def test_what_is_no_ledger_is_named(tmp_path, text, words):
    (tmp_path / "ledger.csv").write_text(text)
    with pytest.raises(KitError, match=words):
        read(tmp_path)


def test_a_ledger_that_a_spreadsheet_has_saved_with_semicolons_is_not_written_over(tmp_path, csv):
    """Its lines would all be read as empty ones."""
    saved = f"{';'.join(COLUMNS)}\nold-1;2026-01-01\n"
    (tmp_path / "ledger.csv").write_text(saved)
    with pytest.raises(KitError, match=r"is no ledger: .*Save it with commas"):
        file_away(tmp_path, "new-2", csv(1), {})
    assert (tmp_path / "ledger.csv").read_text() == saved


def test_what_a_spreadsheet_has_written_otherwise_is_shown_as_it_is():
    assert [four_places(text) for text in ("0.57891", "57,9%", "")] == ["0.5789", "57,9%", ""]
    assert [day(text) for text in ("2026-11-21 03:00:00", "21/11/2026 03:00", "")] == ["11-21", "21/11/2026", ""]
