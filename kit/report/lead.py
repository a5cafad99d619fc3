"""What the page says first: the run in a sentence, a yardstick beside its accuracy, and what it is where that is less than a whole run."""

from typing import Any

import numpy as np

from kit.config.competitions import FOOD11, competition
from kit.report.figures import sizes
from kit.report.render import percent
from kit.report.run import Run, Stage


def first(run: Run) -> dict[str, Any]:
    """What comes first."""
    record, sessions = run.record, run.record["sessions"]
    days = [session["started"][:10] for session in sessions]
    return {
        "title": title(run),
        "sentence": sentence(run),
        "yardstick": yardstick(run),
        "part": part_of(run),
        "rules": competition(run.config.whose_limit),
        "competition": competition(run.config.competition),
        "problems": record.get("submission", {}).get("problems", []),
        "days": " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
        "seconds": sum(session.get("seconds", 0) for session in sessions),
        "last": next((session for session in reversed(sessions) if "error" not in session), {}),
        "photos": len(run.answers.labels) or None,
        "discs": discs(run),
    }


def part_of(run: Run) -> str:
    """The share of the photos that it was made from; empty where it is all of them."""
    subset = run.config.data.subset
    return f"{100 * subset:g}\u202f%" if subset < 1 else ""


def title(run: Run) -> str:
    """Of the browser's tab, which shows little more than how it begins."""
    accuracy = run.record.get("validation_accuracy")
    found = [percent(accuracy)] if accuracy is not None else []
    return " · ".join([*found, *tried(run), run.record["recipe"], run.name])


def tried(run: Run) -> list[str]:
    """What makes a try of it; empty for a whole run."""
    part = part_of(run)
    return ["smoke test"] * bool(run.config.trial) + [f"{part} of the photos"] * bool(part)


def sentence(run: Run) -> str:
    """The run in plain words, as far as it is."""
    record = run.record
    if "no_validation" in record:
        return (
            f"A student of {record['parameters']:,} parameters has learned from all labelled photos, those for validation too. "
            "No accuracy is claimed: no photo is left to measure it on."
        )
    accuracy, stages = record.get("validation_accuracy"), {stage.key: stage for stage in run.stages}
    if accuracy is None:
        learning = [stage for key, stage in stages.items() if key != "teacher"]
        known = f" The one in training knows {percent(learning[-1].accuracy)} of the validation photos so far." if learning else ""
        return f"No student is packed yet.{known}"
    begins = "A student" if record["state"] == "done" else "So far a student"
    against = beside(run, stages["teacher"], record["parameters"], accuracy) if "teacher" in stages else ""
    return f"{begins} of {record['parameters']:,} parameters tells {what_it_tells(run)} apart with {percent(accuracy)} accuracy{against}."


def what_it_tells(run: Run) -> str:
    food = competition(run.config.competition).classes == FOOD11
    return f"{len(run.classes)} {'kinds of food' if food else 'classes'}" if run.classes else "the classes"


def beside(run: Run, teacher: Stage, parameters: int, accuracy: float) -> str:
    """The student's size and accuracy in shares of its teacher's. A size that is much the same is passed over."""
    name = teacher_of(run)
    whose, their = (f"{name}’", "their") if name.endswith("s") else (f"{name}’s", "its")
    share = percent(accuracy / teacher.accuracy if teacher.accuracy else None, 0)
    if teacher.parameters <= 1.5 * parameters:
        return f": {share} of {whose} accuracy"
    times = teacher.parameters / parameters
    size = f"1/{times:,.0f}" if times >= 10 else percent(1 / times, 0)  # 1/2 would be anything from 40 % to 67 %
    return f": {size} of {whose} size and {share} of {their} accuracy"


def teacher_of(run: Run) -> str:
    """What is measured as the teacher: several may teach together, and a student of the labels alone has none of its own."""
    several = len(run.record["stages"]["teacher"].get("accuracies", [])) > 1
    return f"{'its' if run.config.taught else 'the'} teacher{'s' if several else ''}"


def yardstick(run: Run) -> dict[str, Any] | None:
    """What always answering the largest class would score on the same validation photos, beside the student and its teacher."""
    accuracy, labels = run.record.get("validation_accuracy"), run.answers.labels
    if accuracy is None or not len(labels):
        return None
    counts = np.bincount(labels)
    largest, least = run.classes[counts.argmax()], float(counts.max() / len(labels))
    rows = [(f"always answering “{largest}”", least, "c3"), ("the student", accuracy, "c1")]
    rows += [(teacher_of(run), stage.accuracy, "c2") for stage in run.stages if stage.key == "teacher" and stage.accuracy is not None]
    return {"rows": rows, "largest": largest, "beaten": accuracy > least}


def discs(run: Run) -> dict[str, Any] | None:
    """How much smaller the student is than its teacher."""
    found = {stage.key: stage for stage in run.stages}
    if not {"teacher", "quantize"} <= found.keys():
        return None
    teacher, student = found["teacher"].parameters, found["quantize"].parameters
    says = f"Two discs in scale: the teacher's {teacher:,} parameters, and the student's {student:,}."
    return {"figure": sizes(teacher, student, says), "teacher": teacher, "student": student}
