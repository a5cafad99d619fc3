"""No power can be cut here, so the calls are watched: what must be on the disk before a file gets its name, and the name itself."""

import os

from kit.files import write_durably


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_call_is_over(tmp_path, monkeypatch):
    flush, rename, calls = os.fsync, os.replace, []

    def flushed(descriptor):
        calls.append(("flushed", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        flush(descriptor)

    def renamed(source, target):
        calls.append(("renamed", str(source), str(target)))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_durably(tmp_path / "a", b"whole")
    temporary = calls[1][1]
    assert calls[0] == ("flushed", temporary, 5)
    assert calls[1] == ("renamed", temporary, str(tmp_path / "a"))
    assert calls[2][:2] == ("flushed", str(tmp_path))
    assert len(calls) == 3
    assert os.listdir(tmp_path) == ["a"]
