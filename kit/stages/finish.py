"""The finish: pack, read back, predict, check, file with what it was made by."""

import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

from kit import predict, submission
from kit.answers import keep_answer
from kit.compress.adjust import adjust_logits
from kit.compress.pack import Packed, unpack
from kit.config.competitions import check_limits
from kit.console import counted
from kit.errors import KitError
from kit.files import sha256_of, write_json
from kit.ledger import file_away
from kit.names import ANSWERS, MADE_WITH, PROVENANCE, STUDENT, SUBMISSION
from kit.session import Session, command
from kit.stages.packing import pack_student, rounded
from kit.stages.photos import Material
from kit.train.checkpoint import saved_in


def quantize(session: Session, material: Material, students: dict[str, nn.Module], checkpoint: str | None = None) -> Packed:
    """student.kit, and the student as read back from it: what is measured and predicted with from here on.

    Args:
        students: {stage: what it ended with}, in the order of the run; of several the one that packing leaves the best.
        checkpoint: the file that the student before its layers were changed is of. None: the newest of its stage.
    """
    with session.stage("quantize"):
        file, classes = session.out / STUDENT, material.dataset.classes
        session.note("quantize", per_class=material.per_class.tolist())  # what is made of a checkpoint later may be adjusted
        if tau := session.config.predict.logit_adjustment:
            students = {stage: adjust_logits(student, material.per_class, tau) for stage, student in students.items()}
        chosen, ready = best_packed(session, material, students)
        session.note("quantize", checkpoint=checkpoint_of(session, chosen, checkpoint))
        size = pack_student(file, session.config, ready, classes)
        session.attempt(PROVENANCE, lambda stale: stale.unlink(missing_ok=True))  # what fails before this leaves the CSV its history
        packed = unpack(file)
        packed.student.to(session.device.device)
        scores = score(session, material, packed, sha256_of(file)[:16])
        if scores:
            session.note("quantize", packing=changed_by_packing(session, material, students[chosen], packed.student))
        parameters = packed.parameters  # as trained: batch norm was folded away, but no limit is met by that alone
        over = check_limits(session.config.whose_limit, parameters, size)
        session.record |= {"validation_accuracy": scores.get("accuracy"), "validation_macro_f1": scores.get("macro_f1")}
        session.record |= {"parameters": parameters, "bytes": size, "over_the_limit": over}
        session.note("quantize", accuracy=scores.get("accuracy"), macro_f1=scores.get("macro_f1"), parameters=parameters, bytes=size)
        session.log(f"packed {file}: {parameters:,} parameters, {size:,} bytes, {predict.say(scores)}")
    return packed


def changed_by_packing(session: Session, material: Material, before: nn.Module, after: nn.Module) -> dict[str, float]:
    """Validation accuracies of the centre crop before and after packing, and the share of photos that both give the same class."""
    photos, networks = material.validation, (before.to(session.device.device).eval(), after)
    answers = [predict.logits(network, photos, session.config.data).argmax(1).numpy() for network in networks]
    first, second = (float((answer == photos.labels).mean()) for answer in answers)
    equal = float((answers[0] == answers[1]).mean())
    session.log(f"packing took {100 * (first - second):.2f} points of the centre crop's accuracy; {equal:.2%} of the answers stayed")
    return {"before": first, "after": second, "equal": equal}


def checkpoint_of(session: Session, chosen: str, checkpoint: str | None) -> str | None:
    """The checkpoint that holds the student that is packed: its own stage's where that changed its layers, else as `quantize` is told."""
    files = [saved for saved in saved_in(session.out) if saved.kind != "teacher"]
    own = [saved.path.name for saved in files if saved.kind == chosen]
    newest = [saved.path.name for saved in files if saved.kind != "qat"]
    found = own or ([checkpoint] if checkpoint else newest)
    return found[-1] if found else None


def best_packed(session: Session, material: Material, students: dict[str, nn.Module]) -> tuple[str, nn.Module]:
    """The stage whose student keeps the limits and knows most of the validation photos once it is packed, of equals the last, and that
    student rounded; what each would have cost is said. After a final fit, which leaves nothing to choose by, the last."""
    last = list(students)[-1]
    if len(students) == 1 or session.config.train.final_fit:
        return last, rounded(session, material, students[last])
    ready, worth = {stage: rounded(session, material, student) for stage, student in students.items()}, {}
    with tempfile.TemporaryDirectory(prefix="kit-choice-") as folder:
        for stage, student in ready.items():
            file = Path(folder) / STUDENT
            size = pack_student(file, session.config, student, material.dataset.classes)
            packed = unpack(file)
            packed.student.to(session.device.device)
            scores = predict.scores(packed.student, material.validation, session.config.data, views=session.config.predict)
            broken = check_limits(session.config.whose_limit, packed.parameters, size)
            worth[stage] = (not broken, scores["accuracy"])
            session.log(f"packed after {stage} it would have {size:,} bytes, {predict.say(scores)}" + "".join(f"; {b}" for b in broken))
    chosen = max(reversed(students), key=worth.__getitem__)
    session.note("quantize", chosen=chosen, candidates={stage: accuracy for stage, (_, accuracy) in worth.items()})
    return chosen, ready[chosen]


def score(session: Session, material: Material, packed: Packed, digest: str) -> dict[str, float]:
    """Validation scores of the packed student, whose answers are kept; none after a final fit, which has trained on those photos."""
    if session.config.train.final_fit:
        session.record["no_validation"] = "train.final_fit: the validation photos were trained on, so no figure of them says anything"
        return {}
    photos = material.validation
    answer = predict.logits(packed.student, photos, session.config.data, views=session.config.predict).numpy()
    session.attempt(ANSWERS, lambda file: keep_answer(file, photos, packed.classes, "quantize", digest, answer))
    return predict.scores_of(answer.argmax(1), photos.labels)


def submit(session: Session, material: Material, packed: Packed, state: str, submissions: Path | None) -> None:
    """submission.csv from the packed student, checked against the evaluation photos and the competition, filed with its making."""
    with session.stage("submit"):
        answer = predict.logits(packed.student, material.evaluation, session.config.data, views=session.config.predict)
        most_frequent = int(material.per_class.argmax())
        ids, csv = submission.ids_for(material.evaluation.names, session.rules), session.out / SUBMISSION
        submission.write_csv(csv, ids, predict.classes_of(answer, material.evaluation, most_frequent), session.rules)
        guesses = [ids[row] for row in material.evaluation.bad]
        if guesses:
            said = counted(len(guesses), "row is a guess", "rows are guesses")
            session.log(f"{said} (class {most_frequent}), since there a photo does not decode: {', '.join(guesses)}")
        classes = len(material.dataset.classes)
        found = submission.problems(submission.read_csv(csv), session.rules, classes, ids, material.per_class)
        found += session.record["over_the_limit"]
        session.record["submission"] = {"problems": found, "guessed_ids": guesses, "sha256": sha256_of(csv), "rows": len(ids)}
        report_submission(session, csv, state, found)
        made = provenance(session, state)
        session.attempt(PROVENANCE, lambda file: write_json(file, made))
        if submissions and not session.record["partial"] and session.config.competition != "any":
            name = f"{session.config.recipe}-{session.config.digest()}"
            try:
                session.log(f"filed under {file_away(submissions, name, csv, made)}")
            except KitError as error:  # the run is done, and its folder has the submission
                session.log(f"not filed under {submissions}: {error}")


def report_submission(session: Session, csv: Path, state: str, found: list[str]) -> None:
    for problem in found:
        session.log(f"can't be submitted: {problem}")
    if session.record["partial"]:
        kind = f"a try ({session.config.tried_with}), can't be submitted"
    else:
        kind = "can't be submitted" if found else "provisional" if state == "suspended" else "checked"
    session.log(f"{csv}: {counted(session.record['submission']['rows'], 'row')}, {kind}")


def provenance(session: Session, state: str) -> dict[str, Any]:
    """Where a submission came from, enough to make it again."""
    tried = [f"{MADE_WITH} {session.config.tried_with}"] if session.record["partial"] else []
    kept = ("recipe", "validation_accuracy", "parameters", "bytes", "commit", "versions", "device", "photos", "teacher", "stages", "config")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),  # as Kaggle dates what is handed in
        "state": state,
        "competition": session.config.competition,
        "command": command(),
        "checkpoint": session.record["stages"]["quantize"]["checkpoint"],
        "student_sha256": sha256_of(session.out / STUDENT),
        "csv_sha256": session.record["submission"]["sha256"],
        "problems": session.record["submission"]["problems"] + tried,
        "partial": session.record["partial"],
        **{key: session.record[key] for key in kept},
    }
