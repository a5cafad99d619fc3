"""Kills at random moments of the real command. `make chaos` is the long form; KIT_CHAOS_SEED draws other moments. The run that is never
killed is a process of its own from its start."""

import os
import random
import shutil
import subprocess
import sys

import pytest
from conftest import left_running
from driver import STAGES, WORDS, Chaos, results

KILLS, SEED = int(os.environ.get("KIT_CHAOS_KILLS", "28")), int(os.environ.get("KIT_CHAOS_SEED", "20220013"))
DECODING = 2 * (KILLS // 20)  # of these, with the feed that decodes anew, whose laps are the long ones


def prepare(drawn, place, seed, *more):
    """The photos, what the run that is never killed ends with, and the moments that a seed draws."""
    shutil.copytree(drawn, place / "photos")
    words = (*WORDS, *more)
    subprocess.run([sys.executable, "-m", "kit", *words], cwd=place, check=True, capture_output=True)
    wanted = results(place / "out")
    shutil.rmtree(place / "out")
    shutil.rmtree(place / "cache")
    return Chaos(place, words, random.Random(seed), wanted)


def kill_and_finish(chaos, stages):
    for stage in stages:
        chaos.kill(stage)
    chaos.finish()
    print(f"{sum(chaos.kills.values())} kills in {chaos.laps} laps with seed {SEED}: {dict(chaos.kills)}")
    assert not left_running(lambda entry: (entry / "cwd").readlink() == chaos.place)


@pytest.mark.parametrize("lane", [0, 1])
def test_killed_in_every_stage_at_any_moment_it_ends_as_if_it_had_not_been(drawn, tmp_path, lane):
    """Two lanes, since a session of this size keeps one core busy."""
    kills = KILLS - DECODING
    stages = [stage for _ in range(-(-kills // len(STAGES))) for stage in STAGES][:kills]
    half = (kills + DECODING + 4) // 2  # the second lane's worker decodes as well
    kill_and_finish(prepare(drawn, tmp_path, SEED + lane), stages[half:] if lane else stages[:half])


def test_killed_while_workers_decode_ahead_it_ends_as_if_it_had_not_been(drawn, tmp_path):
    """The feed without a cache, with another number of workers in every session."""
    chaos = prepare(drawn, tmp_path, SEED, "--set", "data.feed=decode")
    kill_and_finish(chaos, ["distil", "finetune"] * (DECODING // 2))
