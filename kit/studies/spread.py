"""Arms on several machines or GPUs: Ray (optional, an engine for that) takes each as a task; arms and journal are what they are in turn.

The cluster is the one that `ray start` has made, else this machine. Its machines see the same folders under the same paths, have the kit
installed, and write the runs there; the journal is written by this process alone. A task has one GPU to itself where there are any, else
one core, and begins when the arms that it needs have ended.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kit.console import counted
from kit.errors import KitError
from kit.studies.journal import Entry
from kit.studies.runner import Job, Say, failed, run_job
from kit.train.budget import Budget

POLL = 1.0  # seconds between two looks at whether the session should end


def over_ray(jobs: Sequence[Job], data: Path, cache: Path, budget: Budget, keep: Callable[[Entry], None], say: Say) -> bool:
    """As `runner.in_turn`, all at once.

    Raises:
        KitError: Ray is not installed.
    """
    ray = import_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    cards, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    each = {"num_gpus": 1, "num_cpus": max(1, cores // cards)} if cards else {"num_cpus": 1}
    workers = counted(cards, "GPU") if cards else counted(cores, "core")
    say(f"Ray: {counted(len(jobs), 'arm')} over {workers} of {counted(len(ray.nodes()), 'machine')}")
    task = ray.remote(max_retries=0, **each)(run_after)
    tasks: dict[Path, Any] = {}
    for job in jobs:
        before = [tasks[folder] for folder in job.needs if folder in tasks]
        tasks[job.folder] = task.remote(job, data.resolve(), cache.resolve(), budget.seconds, budget.started, *before)
    waiting, whole, cancelled = dict(zip(tasks.values(), jobs, strict=True)), True, False
    with budget.catching_signals():
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=POLL)
            for ref in ready:
                entry = outcome(ray, ref, waiting.pop(ref))
                whole = whole and entry is not None
                if entry:
                    keep(entry)
            if budget.stop and not cancelled:
                for ref in waiting:
                    ray.cancel(ref)  # as Ctrl-C: what is at work saves and ends; a second would break off its hand-in
                cancelled = True
    if not whole:
        say("the budget is over before all arms are done; the same command goes on from here")
    return whole


def import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise KitError("--ray needs Ray, which is not installed: pip install ray. Without --ray the arms run here in turn.") from None
    return ray


def run_after(job: Job, data: Path, cache: Path, seconds: float | None, started: float, *before: Entry | None) -> Entry | None:
    """In a process of Ray's. before: what the arms that this one needs came to; one that is half done is not built upon."""
    if None in before:
        return None
    return run_job(job, data, cache, Budget(seconds, started))


def outcome(ray: Any, ref: Any, job: Job) -> Entry | None:
    """The journal's line; None for an arm that was broken off. A process that died is an arm that failed."""
    try:
        return ray.get(ref)
    except ray.exceptions.TaskCancelledError:
        return None
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or ["?"])[-1]
        return failed(job, f"its process ended: {reason[:200]}")
