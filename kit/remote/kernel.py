"""A session on Kaggle, which all kernels share: an earlier output taken over, the one pipeline, an end before Kaggle's own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kit.config.schema import Config
from kit.duration import parse_duration
from kit.errors import KitError
from kit.files import cache_folder

KAGGLE = "KIT_KAGGLE"  # names another folder for /kaggle: a rehearsal at home
LEAST = "KIT_LEAST_STEP"  # set by the first lines of a bundle that goes on with a run
ENDS_AFTER = "KIT_SESSION_LIMIT"  # likewise, of one whose session Kaggle was told to end: after how many seconds
BUDGET = "8h30m"
SHORTEST = 20 * 60  # seconds to limit a session to at least: it must end in order
LIMIT, LONGEST = 9 * 3600, 12 * 3600  # after which Kaggle ends one: what the kit reckons with, what GPUs are reported to get at present
GRACE = 30.0  # seconds that the others have, when one of several processes has failed
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
    from kit.device import usable_cards

    least_step = max(least_step, int(os.environ.get(LEAST, "0")))
    try:
        if (cards := usable_cards()) > 1:
            return on_cards(config, budget, least_step, data, cards)
        return on_this_machine(config, budget, least_step, data)
    except KitError as error:
        sys.exit(f"error: {error}")


def insist_on_gpu() -> None:
    """End a session on Kaggle that has no GPU: a bundle begins with this where its kernel asks for one. On the CPU a night would bring next
    to nothing. A rehearsal at home takes what there is."""
    import torch

    if KAGGLE not in os.environ and not torch.cuda.is_available():
        sys.exit(
            "error: This session has no GPU, and kernel-metadata.json asks for one. Confirm your phone number in Kaggle's settings, see "
            'what is left of the week\'s GPU time (kit doctor), and push again. To train on the CPU all the same, say "enable_gpu": false.'
        )


def places() -> tuple[Path, Path]:
    """Where attached outputs lie, and where this one is left."""
    root = Path(os.environ.get(KAGGLE, "/kaggle"))
    return root / "input", root / "working"


def on_this_machine(config: Config, budget: str, least_step: int, data: Path | None) -> dict[str, Any]:
    from kit.pipeline import run
    from kit.train.budget import Budget

    inputs, working = places()
    limit = Budget(session_seconds(budget))
    return run(config, data or inputs, working, cache=cache_folder(None), budget=limit, least_step=least_step, attached=[inputs])


def session_seconds(budget: str) -> float:
    """A budget's seconds, or as many as end half an hour before the limit that the push gave this session; a quarter of it before a
    short one."""
    limit = float(os.environ.get(ENDS_AFTER, "inf"))
    return min(parse_duration(budget), limit - min(MARGIN, SHARE * limit))


def on_cards(config: Config, budget: str, least_step: int, data: Path | None, cards: int) -> dict[str, Any]:
    """The same in a process a card. A signal that reaches this one is passed on, and each ends in order, however long a hand-in takes:
    torchrun would give them half a minute.

    Raises:
        KitError: one failed, with what each says; a bug's traceback stands above in the log.
    """
    order = {"config": config.model_dump(mode="json"), "budget": budget, "least_step": least_step, "data": data and str(data)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "order.json"
        file.write_text(json.dumps(order), encoding="utf-8")
        codes = together([sys.executable, "-m", "kit.remote.kernel", str(file)], cards, GRACE)
        reasons = {reason.read_text(encoding="utf-8"): None for reason in sorted(Path(folder).glob("reason-*"))}  # each once
    if any(codes):
        why = " ".join(reasons) or "The reason stands above."
        raise KitError(f"The session's {cards} processes ended with exit codes {', '.join(map(str, codes))}. {why}")
    return json.loads((places()[1] / "run.json").read_text(encoding="utf-8"))


def together(command: list[str], size: int, grace: float) -> list[int]:
    """Exit codes of as many processes, which know of each other what torchrun would tell them. When one fails, the others, which may wait
    for it, have `grace` seconds to say why they end, too."""
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    each = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} | world
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for rank in map(str, range(size)):
            processes.append(subprocess.Popen(command, env=each | {"RANK": rank, "LOCAL_RANK": rank}, start_new_session=True))
        while all(process.poll() in (None, 0) for process in processes) and any(process.poll() is None for process in processes):
            time.sleep(0.2)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    return [process.wait() for process in processes]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main() -> None:
    """One of several processes. Why it ends lies beside its order: the one that began all of them says it, whichever it was."""
    file = Path(sys.argv[1])
    order = json.loads(file.read_text(encoding="utf-8"))
    data = Path(order["data"]) if order["data"] else None
    try:
        on_this_machine(Config.model_validate(order["config"]), order["budget"], order["least_step"], data)
    except KitError as error:
        file.with_name(f"reason-{os.environ['RANK']}").write_text(str(error), encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    main()
