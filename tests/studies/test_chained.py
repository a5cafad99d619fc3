"""Arms that need other arms: run in order, again where the other's run is gone, and told apart in the journal by what they began with."""

import importlib.util
import os
import shutil
import signal
import time
from dataclasses import replace
from threading import Thread

import pytest
import torch

from kit.config.recipes import sample
from kit.data.draw import draw_dataset
from kit.errors import KitError
from kit.studies.catalogue import choose, find_study
from kit.studies.journal import read
from kit.studies.runner import Place, digest_of, in_turn, jobs_to_do, run_study
from kit.studies.spread import over_ray
from kit.studies.study import Arm, Study, replaced
from kit.train.budget import Budget


def chained() -> Study:
    bare = replaced(sample(), {"prune": None, "data.image_size": 32, "distill": [{"loss": "ce"}], "train.ema_decay": None})
    taught = replaced(bare, {"distill": [{"loss": "kd", "temperature": 4}]})
    slim = replaced(bare, {"prune": {"keep": 0.7, "finetune_epochs": 1}})
    arms = (
        Arm("teacher", bare, "labels alone"),
        Arm("taught", taught, "by the first", "0.5", teacher="teacher"),
        Arm("slim", slim, "the second, pruned", "0.4", begins="taught", curve="slimming"),
    )
    return Study("chained", "Does it run?", arms, "taught", lambda config: config, "nothing")


@pytest.fixture(scope="module")
def learnable(tmp_path_factory):
    """Enough drawn photos that a teacher is no guesser after a few epochs."""
    return draw_dataset(tmp_path_factory.mktemp("drawn"), splits={"training": 400, "validation": 60, "evaluation": 24})


def run(study, tmp_path, drawn, said, how=in_turn):
    place = Place(tmp_path / "journal.jsonl", tmp_path / "arms")
    where = {"cache": tmp_path / "cache", "budget": Budget(None, started=time.time()), "seeds": [1], "setting": "tiny"}
    assert run_study(study, place, drawn, **where, say=said.append, teachers=(), how=how)
    return place, read(place.journal, study.name, said.append)


@pytest.mark.slow
def test_an_arm_is_taught_by_another_and_a_third_begins_with_it(tmp_path, learnable):
    study, said = chained(), []
    place, entries = run(study, tmp_path, learnable, said)
    teacher, taught, slim = entries
    assert [entry["state"] for entry in entries] == ["done"] * 3, said
    assert "teacher" not in teacher["stages"] or "accuracy" not in teacher["stages"]["teacher"]  # labels alone need none
    assert taught["stages"]["teacher"]["accuracy"] == teacher["stages"]["distil"]["accuracy"]
    assert slim["stages"]["distil"]["accuracy"] == taught["stages"]["distil"]["accuracy"]
    assert slim["parameters"] < taught["parameters"]
    assert slim["stages"]["prune"]["widths"] != slim["stages"]["distil"]["widths"]
    assert jobs_to_do(study, place, [1], "tiny", print, ()) == []
    # another arm that needs the second, whose folder is gone: it comes again, and what it needs with it
    shutil.rmtree(next(place.runs.glob("taught-*")))
    more = replace(study, arms=(*study.arms, replace(study.arms[2], name="slimmer")))
    assert [job.arm for job in jobs_to_do(more, place, [1], "tiny", print, ())] == ["taught", "slimmer"]


def test_an_arm_whose_source_changed_is_another_one():
    study = chained()
    teacher = replace(study.arms[0], config=replaced(study.arms[0].config, {"train.lr": 1e-3}))
    changed = replace(study, arms=(teacher, *study.arms[1:]))
    assert all(digest_of(study, study.arm(n), 1, "full") != digest_of(changed, changed.arm(n), 1, "full") for n in ("taught", "slim"))


# One arm of each kind that the seeds' studies have, and all that it needs.
SAMPLE = (
    ("cifar-slim", "sparse-dist-then-labels-20"),
    ("cifar-slim", "scratch-20"),
    ("cifar-slim", "random-5"),
    ("hw13", "boss-decoding-1"),
    ("hw7-architectures", "fixed-labels"),
    ("hw7-architectures", "l2-logits"),
    ("hw7-pipeline", "restarted-5x0.9"),
    ("hw7-pipeline", "bits-8-course"),
    ("hw7-report", "student-weak"),
    ("hw7-report", "depthwise-distilled"),
    ("hw7-report", "magnitude-50"),
    ("hw7-report", "groups-2"),
)


@pytest.mark.long
@pytest.mark.parametrize(("name", "arm"), SAMPLE)
def test_an_arm_takes_its_real_code_path_to_the_end(name, arm, tmp_path):
    said = []
    _, entries = run(choose(find_study(name), [arm]), tmp_path, draw_dataset(tmp_path / "photos"), said)
    assert [entry["state"] for entry in entries] == ["done"] * len(entries), said
    assert entries[-1]["arm"] == arm


def test_without_ray_its_option_is_refused_with_the_remedy(tmp_path, learnable):
    if importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    with pytest.raises(KitError, match="pip install ray"):
        run(chained(), tmp_path, learnable, [], how=over_ray)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_journal_that_one_process_gives(tmp_path, learnable):
    pytest.importorskip("ray", reason="Ray is not installed")
    said, threads = [], torch.get_num_threads()
    _, spread = run(chained(), tmp_path / "ray", learnable, said, how=over_ray)
    torch.set_num_threads(1)  # as a task on one core has
    _, alone = run(chained(), tmp_path / "alone", learnable, said)
    torch.set_num_threads(threads)
    same = lambda entry: {key: entry[key] for key in ("arm", "seed", "digest", "state", "parameters", "bytes")}  # noqa: E731
    assert [same(entry) for entry in spread] == [same(entry) for entry in alone], said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_one_ctrl_c_lets_rays_arms_save_and_hand_in(tmp_path, learnable):
    pytest.importorskip("ray", reason="Ray is not installed")
    place, budget = Place(tmp_path / "journal.jsonl", tmp_path / "arms"), Budget(None, started=time.time())

    def stop():
        while not list(place.runs.glob("*/metrics.jsonl")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=stop, daemon=True).start()
    how = {"cache": tmp_path / "cache", "budget": budget, "seeds": [1], "setting": "tiny", "say": print, "teachers": (), "how": over_ray}
    assert not run_study(replace(chained(), arms=chained().arms[:1], reference="teacher"), place, learnable, **how)
    assert [file.parent.parent for file in place.runs.glob("*/submission.csv")] == [place.runs]
    assert place.journal.read_text() == ""  # the arm is half done
