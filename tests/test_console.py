from kit.console import counted


def test_what_is_counted_is_one_or_many():
    assert [counted(number, "epoch") for number in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
    assert [counted(number, "id is", "ids are") for number in (1, 2)] == ["1 id is", "2 ids are"]
