import numpy as np
import pandas as pd
import pytest

from kit.config.competitions import Competition, competition
from kit.errors import KitError
from kit.submission import check, ids_for, problems, read_csv, write_csv

HW13 = competition("hw13-2023")


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "submission.csv"
    names = tuple(f"{i:04d}.jpg" for i in range(2_218))
    write_csv(path, ids_for(names, HW13), np.arange(2_218) % 11, HW13)
    return path


def rewrite(path, old, new, count=-1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_a_good_submission_passes_and_keeps_its_padding(good):
    assert check(good, "hw13-2023") == []
    assert good.read_text().startswith("Id,Category\n0000,0\n0001,1\n")


def test_each_defect_is_named(good):
    table = read_csv(good)
    unpadded = table.assign(Id=table["Id"].str.lstrip("0").replace("", "0"))
    cases = {
        "lost their padding": unpadded,
        "another order": table.iloc[::-1].reset_index(drop=True),
        "2,217 rows, wanted are 2,218": table.iloc[:-1],
        "'2218'": table.replace({"Id": {"2217": "2218"}}),
        "more than once": table.replace({"Id": {"2217": "2216"}}),
        "classes that do not exist: '11'": table.replace({"Category": {"10": "11"}}),
        "has collapsed": table.assign(Category="3"),
        "the columns are": table.rename(columns={"Category": "category"}),
    }
    for words, broken in cases.items():
        assert words in "; ".join(problems(broken, HW13, 11)), words


def test_an_answer_that_is_empty_or_a_word_is_named(good):
    rewrite(good, "0001,1\n", "0001,\n")
    assert problems(read_csv(good), HW13, 11) == ["classes that do not exist: ''; there are 0 to 10"]
    words = read_csv(good).assign(Category="bread")
    assert problems(words, HW13, 11, None, np.ones(11)) == ["classes that do not exist: 'bread'; there are 0 to 10"]


def test_a_class_that_is_nearly_all_of_training_may_be_nearly_all_of_the_answers():
    def found(of_first, training):
        table = pd.DataFrame({"Id": [f"{i:04d}" for i in range(1_000)], "Category": ["0"] * of_first + ["1"] * (1_000 - of_first)})
        return problems(table, competition("any"), 2, None, np.array(training))

    assert not found(940, [95, 5])
    assert not found(990, [95, 5])
    assert "class 0 is the answer in 1,000 of 1,000 rows: the model has collapsed" in found(1_000, [95, 5])
    assert found(960, [50, 50])
    assert found(950, [5, 95])


def test_ids_are_compared_with_the_evaluation_folders(good):
    wanted = [f"{i:04d}" for i in range(2_217)] + ["9999"]
    assert "'9999'" in "; ".join(problems(read_csv(good), HW13, 11, wanted))


def test_the_names_of_photos_that_are_not_at_hand_are_not_guessed_but_for_the_courses(tmp_path):
    rules = Competition("Pets of the town", classes=("cat", "dog"), rows=24)
    write_csv(tmp_path / "own.csv", [f"img_{i}" for i in range(24)], np.arange(24) % 2, rules)
    assert problems(read_csv(tmp_path / "own.csv"), rules, 2) == []
    assert problems(read_csv(tmp_path / "own.csv")[1:], rules, 2) == ["23 rows, wanted are 24"]


def test_competitions_that_count_from_zero_get_plain_numbers():
    assert ids_for(("0000.jpg", "0001.jpg"), competition("hw7-2020")) == ["0", "1"]


def test_what_is_no_csv_is_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "wide.csv").write_text("Id,Category\n0,1\n1,2,3\n")
    for name in ("none.csv", "empty.csv", "wide.csv"):
        with pytest.raises(KitError, match=rf"^[^\n]*{name}[^\n]*$"):
            check(tmp_path / name, "hw13-2023")


@pytest.mark.parametrize(("rows", "found"), [(1_996, 0), (1_997, 1)])
def test_a_class_may_take_nine_tenths_of_the_rows_and_no_more(good, rows, found):
    table = read_csv(good)
    table["Category"] = np.where(np.arange(2_218) < rows, "3", "4")
    assert len(problems(table, HW13, 11)) == found
