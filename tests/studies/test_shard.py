"""A share of a study's arms, as a Kaggle session gets it: dealt, bundled, carried out, gone on with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slugify import slugify

from kit.data.draw import draw_dataset
from kit.errors import KitError
from kit.remote.bundle import compose, read_head, write_script
from kit.studies.catalogue import find_study
from kit.studies.journal import read
from kit.studies.shard import ORDER, Share, carry_out
from kit.train.budget import Budget

KERNEL = Path(__file__).parents[2] / "kernels" / "study"


def test_shares_hold_every_arm_and_each_what_it_needs():
    shares = [Share(study="cifar-slim", shard=f"{k}/4").chosen() for k in range(1, 5)]
    assert {arm.name for share in shares for arm in share.arms} == {arm.name for arm in find_study("cifar-slim").arms}
    for share in shares:
        assert {name for arm in share.arms for name in arm.needs} <= {arm.name for arm in share.arms}


@pytest.mark.parametrize("shard", ["0/4", "5/4", "4", "1/0", "40/99"])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(KitError, match="write k/n"):
        Share(study="cifar-slim", shard=shard).chosen()


def test_kernels_of_different_shares_have_names_of_their_own_that_kaggle_takes():
    long = ("richer-views", "l2-weights", "fixed-labels", "0.1 epochs", "0+1 epochs")
    shares = [Share(study="cifar-slim", shard=f"{k}/4") for k in range(1, 5)] + [Share(study="cifar-slim", shard="2/4", seeds=3)]
    shares += [Share(study="hw7-architectures", arms=long[:n], shard=f"{k}/2") for n in (3, 4) for k in (1, 2)]
    shares += [Share(study="hw7", arms=(arm,)) for arm in long[3:]]
    titles = [share.title() for share in shares]
    assert len({slugify(title) for title in titles}) == len(shares)
    assert max(map(len, titles)) == 50
    assert [title for title in titles if title != " ".join(title.split())] == []
    assert titles[1] == "kit study cifar-slim 2 of 4"


@pytest.mark.slow
def test_a_session_carries_its_share_out_and_the_next_one_has_nothing_left(tmp_path):
    """The bundle alone, in a process that knows no repository."""
    kernel = tmp_path / "kernels" / "study"
    kernel.mkdir(parents=True)
    (kernel / "main.py").write_text((KERNEL / "main.py").read_text())
    order = Share(study="cifar-slim", arms=("resnet8x4",), setting="tiny").model_dump_json()
    script = write_script(kernel, compose(kernel, read_head(kernel), environment={ORDER: order}))
    draw_dataset(tmp_path / "input" / "photos", splits={"training": 120, "validation": 60, "evaluation": 24})
    assert "resnet8x4, seed 20220013: 0." in session(script, tmp_path, "working")
    assert [line["arm"] for line in read(tmp_path / "working" / "cifar-slim.jsonl", "cifar-slim", print)] == ["resnet8x4"]
    (tmp_path / "working").rename(tmp_path / "input" / "before")
    other = tmp_path / "input" / "another"
    shutil.copytree(tmp_path / "input" / "before", other)  # the first by its name
    (other / "share.json").write_text(Share(study="cifar-slim", arms=("resnet20",), setting="tiny").model_dump_json())
    said = session(script, tmp_path, "working")
    assert f"{other} is another share's and left alone" in said
    assert f"going on with {tmp_path / 'input' / 'before'}" in said
    assert "resnet8x4, seed" not in said


def session(script, place, working):
    (place / working).mkdir()
    around = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # its kit is the bundle's
    around |= {"KIT_KAGGLE": str(place), "TMPDIR": str(place)}
    done = subprocess.run([sys.executable, script], cwd=place / working, env=around, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_earlier_output_on_a_read_only_mount_can_be_written_to_once_it_is_copied(tmp_path):
    order, before = Share(study="cifar-slim", arms=("resnet8x4",), setting="tiny").model_dump_json(), tmp_path / "input" / "before"
    (before / "arms" / "one").mkdir(parents=True)
    (before / "share.json").write_text(order)
    (before / "arms" / "one" / "run.json").write_text("{}")
    there = [before, *before.rglob("*")]
    for path in there:
        path.chmod(0o444 if path.is_file() else 0o555)
    with pytest.raises(KitError, match="photos"):  # there are none
        carry_out(order, tmp_path / "input", tmp_path / "working", Budget(None), print)
    copied = [tmp_path / "working", *(tmp_path / "working").rglob("*")]
    assert {path.name for path in copied} == {"working", "arms", "one", "run.json", "share.json"}
    assert all(path.stat().st_mode & 0o200 for path in copied)
    for path in there:
        path.chmod(0o755)  # pytest removes it


@pytest.mark.slow
def test_without_an_order_the_session_says_how_to_push_it(tmp_path):
    script = KERNEL / "main.py"
    around = os.environ | {"KIT_KAGGLE": str(tmp_path)}
    done = subprocess.run([sys.executable, script], env=around, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "kit push study --study NAME" in done.stderr
    assert "Traceback" not in done.stderr
