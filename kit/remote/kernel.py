"""A session on Kaggle, which all kernels share: an earlier output taken over, the one pipeline, an end before Kaggle's own."""

import os
import sys
from pathlib import Path
from typing import Any

from kit.config.schema import Config
from kit.errors import KitError

KAGGLE = "KIT_KAGGLE"  # names another folder for /kaggle: a rehearsal at home
LEAST = "KIT_LEAST_STEP"  # set by the first lines of a bundle that goes on with a run


def session(
    config: Config,
    *,
    budget: str = "8h30m",
    least_step: int = 0,
    data: Path | None = None,
    inputs: Path | None = None,
    working: Path | None = None,
) -> dict[str, Any]:
    """One session of the run. A kernel that lists itself in kernel_sources goes on where its last version stopped.

    Args:
        budget: this session's time, from its start. Kaggle ends a session after 9 hours and then may keep nothing.
        least_step: stop at once where the attached output is not as far as this step, before it costs hours. KIT_LEAST_STEP, which
            `kit chain` writes into the bundle, counts too.
        data: where the data set is looked for; None: among the inputs.
        inputs, working: where attached outputs lie and where this one is left; None: Kaggle's folders.
    Returns:
        run.json's content. A run that is suspended ends the script like one that is done, with exit code 0: Kaggle keeps that output.
        A refusal ends it with one paragraph and exit code 1.
    """
    from kit.data.cache import cache_folder
    from kit.pipeline import run
    from kit.train.budget import Budget, parse_duration

    root = Path(os.environ.get(KAGGLE, "/kaggle"))
    inputs, working = inputs or root / "input", working or root / "working"
    try:
        least_step = max(least_step, int(os.environ.get(LEAST, "0")))
        limit = Budget(parse_duration(budget))
        where = {"cache": cache_folder(None), "attached": [inputs]}
        return run(config, data or inputs, working, budget=limit, least_step=least_step, **where)
    except KitError as error:
        sys.exit(f"error: {error}")
