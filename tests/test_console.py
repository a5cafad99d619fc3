from kit.console import Log, counted
from kit.files import read_object, write_json


def test_what_is_counted_is_one_or_many():
    assert [counted(number, "epoch") for number in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
    assert [counted(number, "id is", "ids are") for number in (1, 2)] == ["1 id is", "2 ids are"]


def test_a_strangers_name_that_is_no_utf_8_ends_no_run(tmp_path):
    """As an archive made elsewhere has them: a run's log and account name the file."""
    name = "train/caf\udce9.txt"
    Log(tmp_path / "log.txt")(f"passed over: {name}")
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith(r"passed over: train/caf\udce9.txt" "\n")
    write_json(tmp_path / "run.json", {"error": name})
    assert read_object((tmp_path / "run.json").read_bytes()) == {"error": name}
