"""Kills at random moments of the real command. `make chaos` is the long form; KIT_CHAOS_SEED draws other moments."""

import os
import random
import shutil
import subprocess
import sys

import pytest
from conftest import left_running
from driver import STAGES, WORDS, Chaos, results

KILLS, SEED = int(os.environ.get("KIT_CHAOS_KILLS", "28")), int(os.environ.get("KIT_CHAOS_SEED", "20220013"))


@pytest.fixture
def chaos(drawn, tmp_path):
    """The photos, and what the run that is never killed ends with."""
    shutil.copytree(drawn, tmp_path / "photos")
    subprocess.run([sys.executable, "-m", "kit", *WORDS], cwd=tmp_path, check=True, capture_output=True)
    wanted = results(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "cache")
    return Chaos(tmp_path, random.Random(SEED), wanted)


def test_killed_in_every_stage_at_any_moment_it_ends_as_if_it_had_not_been(chaos):
    stages = [stage for _ in range(-(-KILLS // len(STAGES))) for stage in STAGES][:KILLS]
    for stage in stages:
        chaos.kill(stage)
    chaos.finish()
    print(f"{sum(chaos.kills.values())} kills in {chaos.laps} laps with seed {SEED}: {dict(chaos.kills)}")
    assert not left_running(lambda entry: (entry / "cwd").readlink() == chaos.place)
