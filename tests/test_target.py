import os

import pytest

from kit.errors import KitError
from kit.target import refuse_overwriting


def test_a_file_may_be_made_anew_and_nothing_else_may_be_written_over(tmp_path):
    refuse_overwriting(tmp_path / "new" / "student.kit", tmp_path)
    for name in ("a.csv", "student.kit", "run.json"):  # of no run as yet but for the last
        (tmp_path / "new" / name).touch()
    refuse_overwriting(tmp_path / "new" / "a.csv", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, says in {"new/student.kit": "a run's own", "pipe": "no file", "link": "no file", "new": "no file"}.items():
        with pytest.raises(KitError, match=rf"{name} is {says}.* Give --out"):
            refuse_overwriting(tmp_path / name)
    with pytest.raises(KitError, match="would pass for one"):
        refuse_overwriting(tmp_path / f"distil-000000009-{'0' * 16}.pt")
