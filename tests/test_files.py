"""Files that are whole or not there, and folders that one process has to itself."""

import os
import subprocess
import sys

from kit.files import write_durably


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_call_is_over(tmp_path, monkeypatch):
    """No power can be cut here, so the calls are watched."""
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


FORKING = """
import os, pathlib, sys
from kit.files import locked

folder, (ear, mouth) = pathlib.Path(sys.argv[1]), os.pipe()
with locked(folder):
    child = os.fork()
    if child == 0:  # between its fork and its exec a child holds what its parent holds
        os.close(mouth)
        os.read(ear, 1)
        os._exit(0)
with locked(folder):
    print("had it again")
os.close(mouth)
os.waitpid(child, 0)
"""


def test_a_lock_ends_with_its_block_though_a_child_is_just_being_started(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "had it again\n", done.stderr
