"""A session on Kaggle, which all kernels share: an earlier output taken over, the one pipeline, an end before Kaggle's own."""

import sys
from pathlib import Path
from typing import Any

from kit.config.schema import Config
from kit.errors import KitError

INPUT, WORKING = Path("/kaggle/input"), Path("/kaggle/working")


def session(
    config: Config,
    *,
    budget: str = "8h30m",
    least_step: int = 0,
    data: Path | None = None,
    inputs: Path = INPUT,
    working: Path = WORKING,
) -> dict[str, Any]:
    """One session of the run. A kernel that lists itself in kernel_sources goes on where its last version stopped.

    Args:
        budget: this session's time, from its start. Kaggle ends a session after 9 hours and then may keep nothing.
        least_step: stop at once where the attached output is not as far as this step, before it costs hours.
        data: where the data set is looked for; None: among the inputs.
        inputs, working: Kaggle's folders; a test brings its own.
    Returns:
        run.json's content. A run that is suspended ends the script like one that is done, with exit code 0: Kaggle keeps that output.
        A refusal ends it with one paragraph and exit code 1.
    """
    from kit.data.cache import cache_folder
    from kit.pipeline import run
    from kit.train.budget import Budget, parse_duration

    try:
        limit = Budget(parse_duration(budget))
        where = {"cache": cache_folder(None), "attached": [inputs]}
        return run(config, data or inputs, working, budget=limit, least_step=least_step, **where)
    except KitError as error:
        sys.exit(f"error: {error}")
