"""A session on Kaggle, which all kernels share: an earlier output taken over, the one pipeline, an end before Kaggle's own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kit.config.schema import Config
from kit.errors import KitError

KAGGLE = "KIT_KAGGLE"  # names another folder for /kaggle: a rehearsal at home
LEAST = "KIT_LEAST_STEP"  # set by the first lines of a bundle that goes on with a run
ENDS_AFTER = "KIT_SESSION_LIMIT"  # likewise, of one whose session Kaggle was told to end: after how many seconds
BUDGET = "8h30m"
SHORTEST, LONGEST = 20 * 60, 12 * 3600  # seconds to limit a session to: it must end in order; Kaggle gives no more
MARGIN, SHARE = 30 * 60, 0.25  # seconds before the limit when a session's budget ends; of a short one not more than this share


def session(config: Config, *, budget: str = BUDGET, least_step: int = 0, data: Path | None = None) -> dict[str, Any]:
    """One session of the run, on all the GPUs that there are. A kernel that lists itself in kernel_sources goes on where its last version
    stopped.

    Args:
        budget: this session's time, from its start. Kaggle ends a session after 9 hours and then may keep nothing. Where the push told
            Kaggle to end it earlier (KIT_SESSION_LIMIT), the budget ends before that.
        least_step: stop at once where the attached output is not as far as this step, before it costs hours. KIT_LEAST_STEP, which
            `kit chain` writes into the bundle, counts too.
        data: where the data set is looked for; None: among the inputs.
    Returns:
        run.json's content. A run that is suspended ends the script like one that is done, with exit code 0: Kaggle keeps that output.
        A refusal ends it with one paragraph and exit code 1.
    """
    least_step = max(least_step, int(os.environ.get(LEAST, "0")))
    try:
        if (cards := usable_cards()) > 1:
            return on_cards(config, budget, least_step, data, cards)
        return on_this_machine(config, budget, least_step, data)
    except KitError as error:
        sys.exit(f"error: {error}")


def places() -> tuple[Path, Path]:
    """Where attached outputs lie, and where this one is left."""
    root = Path(os.environ.get(KAGGLE, "/kaggle"))
    return root / "input", root / "working"


def on_this_machine(config: Config, budget: str, least_step: int, data: Path | None) -> dict[str, Any]:
    from kit.data.cache import cache_folder
    from kit.pipeline import run
    from kit.train.budget import Budget

    inputs, working = places()
    limit = Budget(session_seconds(budget))
    return run(config, data or inputs, working, cache=cache_folder(None), budget=limit, least_step=least_step, attached=[inputs])


def session_seconds(budget: str) -> float:
    """A budget's seconds, or as many as end half an hour before the limit that the push gave this session; a quarter of it before a
    short one."""
    from kit.train.budget import parse_duration

    limit = float(os.environ.get(ENDS_AFTER, "inf"))
    return min(parse_duration(budget), limit - min(MARGIN, SHARE * limit))


def usable_cards() -> int:
    """How many GPUs share the work, 0 for the CPU.

    Raises:
        KitError: there is a card that the installed torch has no code for. On the CPU the session would take its hours from the week's
            GPU time and bring next to nothing.
    """
    import torch

    from kit.device import runs_here

    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability()
    if not runs_here(major, minor):
        raise KitError(
            f"This session's {torch.cuda.get_device_name()} is sm_{major}{minor}, which this torch has no code for "
            f'({" ".join(torch.cuda.get_arch_list())}). Set "machine_shape": "NvidiaTeslaT4" in kernel-metadata.json and push again.'
        )
    return torch.cuda.device_count()


def on_cards(config: Config, budget: str, least_step: int, data: Path | None, cards: int) -> dict[str, Any]:
    """The same in a process a card, started by torchrun, which a signal reaches through this one.

    Raises:
        KitError: they failed; why stands above in the log.
    """
    order = {"config": config.model_dump(mode="json"), "budget": budget, "least_step": least_step, "data": data and str(data)}
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(order, file)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cards)]
    with subprocess.Popen([*launcher, "-m", "kit.remote.kernel", file.name]) as process:
        pass_on = lambda number, _: process.send_signal(number)  # noqa: E731
        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    Path(file.name).unlink()
    if code:
        raise KitError(f"The session's {cards} processes ended with exit code {code}. The reason stands above.")
    return json.loads((places()[1] / "run.json").read_text(encoding="utf-8"))


def main() -> None:
    """One of torchrun's processes."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    data = Path(order["data"]) if order["data"] else None
    try:
        on_this_machine(Config.model_validate(order["config"]), order["budget"], order["least_step"], data)
    except KitError as error:
        sys.exit(f"error: {error}" if os.environ["RANK"] == "0" else 1)


if __name__ == "__main__":
    main()
