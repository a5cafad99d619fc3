"""What a session did and what is left, its line in the run's history."""

import math
from typing import Any

from kit.config.schema import Train
from kit.console import counted
from kit.data.order import Order
from kit.duration import say_duration
from kit.session import Session
from kit.stages.photos import Material
from kit.stages.student import later_plans
from kit.train.checkpoint import saved_in, steps_done
from kit.train.pace import KINDS

SHOWN = {"step": "steps", "evaluate": "evaluations", "save": "saves", "wait": "waiting"}


def sum_up(session: Session, material: Material | None) -> None:
    """Put the session's line into run.json and say it."""
    if material is None:
        return
    line = summary(session, material)
    session.record["sessions"][-1] |= line
    session.write()
    session.log(describe(line, len(session.record["sessions"])))


def summary(session: Session, material: Material) -> dict[str, Any]:
    """epochs done by stage; steps, over all of them, the least that a later session must find; images per second while training;
    seconds by kind; the newest stage, its lowest loss and best accuracy; what is left; sessions of this length still needed."""
    budget, plans = session.budget, plans_of(session)
    done = {saved.stage: saved for saved in saved_in(session.out) if saved.stage in plans}  # the newest of each
    epochs, left, seconds_left = {}, 0, 0.0
    trained, images = 0.0, 0
    for stage, plan in plans.items():
        order = Order(material.photos_of(stage), plan.batch_size, plan.seed)
        step, over = (done[stage].step, done[stage].done) if stage in done else (0, False)
        epochs[stage] = step // order.steps_per_epoch
        taken = budget.times[f"{stage} step"]
        spent = sum(budget.spent[f"{stage} {kind}"] for kind in KINDS)
        trained, images = trained + spent, images + taken * order.batch_size
        to_do = 0 if over else plan.epochs * order.steps_per_epoch - step
        left += math.ceil(to_do / order.steps_per_epoch)
        seconds_left += to_do * pace(session, stage)
    newest = next((stage for stage in reversed(plans) if session.histories.get(stage)), None)
    history = session.histories[newest] if newest else []
    accuracies = [line["accuracy"] for line in history if "accuracy" in line]
    entry = session.record["stages"].get(newest, {})
    if not entry.get("seen") and (deployed := entry.get("accuracy")) is not None:
        accuracies.append(deployed)  # of weights that were averaged or measured anew after the last epoch
    of_stages = {f"{stage} {kind}" for stage in plans for kind in KINDS}
    other = {kind: round(seconds, 1) for kind, seconds in budget.spent.items() if kind not in of_stages}
    useful = budget.seconds and budget.seconds - (budget.elapsed() - trained)
    return {
        "epochs": epochs,
        "steps": steps_done(session.out, session.log),
        "images_per_second": round(images / trained, 1) if trained else None,
        "seconds_by_kind": {kind: round(sum(budget.spent[f"{stage} {kind}"] for stage in plans), 1) for kind in KINDS} | other,
        "newest": newest,
        "lowest_loss": min((line["loss"] for line in history), default=None),
        "best_accuracy": max(accuracies, default=None),
        "epochs_left": left,
        "seconds_left": round(seconds_left) if trained else None,
        "sessions_needed": math.ceil(seconds_left / useful) if trained and useful and useful > 0 else None,
    }


def plans_of(session: Session) -> dict[str, Train]:
    """The plans of the stages that train in this run, in order. A teacher's is one from its first step on, before there is an epoch."""
    config = session.config
    plans = {"teacher": config.teacher.train} if session.histories.get("teacher") or session.budget.times["teacher step"] else {}
    return plans | {"distil": config.train} | later_plans(config)


def pace(session: Session, stage: str) -> float:
    """Seconds a step, evaluations and saves included; a stage that has not begun is taken to be like the one before it."""
    budget = session.budget
    for like in (stage, "distil", "teacher"):
        if steps := budget.times[f"{like} step"]:
            return sum(budget.spent[f"{like} {kind}"] for kind in KINDS) / steps
    return 0.0


def describe(line: dict[str, Any], number: int) -> str:
    epochs = ", ".join(f"{stage} {count}" for stage, count in line["epochs"].items())
    parts = [f"session {number}: epochs done: {epochs} (step {line['steps']:,})"]
    if line["images_per_second"]:
        shares = ", ".join(
            f"{SHOWN.get(kind, kind)} {say_duration(seconds)}" for kind, seconds in line["seconds_by_kind"].items() if seconds
        )
        parts += [f"{line['images_per_second']:.0f} images/s", shares]
    if line["lowest_loss"] is not None:
        best = "" if line["best_accuracy"] is None else f", best accuracy {line['best_accuracy']:.4f}"
        parts.append(f"{line['newest']}: lowest loss {line['lowest_loss']:.3f}{best}")
    if line["epochs_left"]:
        seconds = f", {say_duration(line['seconds_left'])}" if line["seconds_left"] else ""
        parts.append(f"left: {counted(line['epochs_left'], 'epoch')}{seconds}")
        if line["sessions_needed"]:
            parts.append(f"{counted(line['sessions_needed'], 'more session')} of this length")
    return "; ".join(parts)
