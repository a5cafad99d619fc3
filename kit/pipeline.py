"""The story of a run: photos in, a checked submission out.

    photos → teacher → distil → prune → finetune → quantize → submit

A stage is skipped when its result is there and resumed when it is half there. The prediction is made with the network that was
loaded back from the packed file, the thing that would be handed in.
"""

import copy
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit import predict, submission
from kit.augment.reference import SeededPipeline
from kit.augment.views import training_views
from kit.augment.warp import normalise
from kit.compress.pack import Packed, pack, unpack
from kit.compress.prune import slim
from kit.config.competitions import check_limits, competition
from kit.config.schema import Augment, Config, Train
from kit.data.cache import Photos, load_photos, scan
from kit.data.layout import Dataset, find_dataset, subset
from kit.data.loader import CachedBatches, DecodingBatches, Order
from kit.device import choose_device
from kit.distill import losses
from kit.distill.objective import Objective
from kit.errors import KitError, Suspended
from kit.files import sha256_of, write_durably
from kit.models.students import FrozenStem, build_student, count_parameters, widths_of
from kit.models.teacher import build_teacher, fold_batch_norm, load_teacher, start_from_pretrained
from kit.rng import derive
from kit.session import Session, command, open_session
from kit.train.budget import Budget
from kit.train.loop import Batches, fit

REHEARSED = 256  # photos that the rehearsal of the hand-in looks at


@dataclass(frozen=True)
class Material:
    """What a run works on. training: the decoded photos, or None when JPEGs are decoded anew each epoch."""

    dataset: Dataset
    training: Photos | None
    validation: Photos
    evaluation: Photos


def run(
    config: Config,
    data: Path,
    out: Path,
    *,
    cache: Path,
    budget: Budget,
    teacher_file: Path | None = None,
    submissions: Path | None = None,
) -> dict[str, Any]:
    """One session of a run. The same call again goes on where it stopped.

    Args:
        data: the data set lies in or below this folder.
        cache: where decoded photos are kept.
        submissions: where a whole submission is filed with its provenance, None for nowhere.
    Returns:
        run.json's content; its `state` is "done" or "suspended".
    Raises:
        KitError: a refusal, or a budget that was over before there was anything to hand in.
    """
    session = open_session(config, out, budget, choose_device())
    material = None
    with budget.catching_signals(), session.account():
        check_recipe(session)
        try:
            material = read_photos(session, data, cache)
            teacher = get_teacher(session, material, data, teacher_file)
            student = distil(session, material, teacher)
            if config.prune:
                student = prune(session, material, student)
                student = finetune(session, material, student, teacher)
            packed = quantize(session, material, student)
            submit(session, material, packed, "done", submissions)
        except Suspended as pause:
            session.suspended = str(pause)
            session.log(f"suspended: {pause}; the same command goes on from here")
            hand_in_best_so_far(session, material, pause, submissions)
    return session.record


def check_recipe(s: Session) -> None:
    """The limit is a gate: what can't be handed in is refused before anything is spent on it."""
    config = s.config
    s.log(f"{config.recipe} {config.digest()} on {s.device.says}")
    classes = len(s.rules.classes) if s.rules.classes else 2  # an "any" folder has no limit that could be broken
    parameters = count_parameters(build_student(config.student.name, config.student.widths, classes))
    if not config.prune and (broken := check_limits(config.limit or config.competition, parameters)):
        raise KitError(
            f"The student {config.student.name!r} can't be handed in: {'; '.join(broken)}. Set smaller student.widths, or prune."
        )
    for mark in check_limits(config.competition, parameters) if config.limit else []:
        s.log(f"note: {mark} (kept as published; its own limit is {config.limit}'s)")


# ── photos ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_photos(s: Session, data: Path, cache: Path) -> Material:
    """Find the data set, check it, decode it once."""
    config, seed = s.config.data, s.config.train.seed
    with s.stage("photos"):
        whole = find_dataset(data, s.rules.classes, config.holdout, seed)
        dataset = subset(whole, config.subset, seed)
        s.log(f"data set {dataset.root}, {len(dataset.classes)} classes\n{dataset.counts()}")
        s.record["partial"] = config.subset < 1
        how = {"workers": config.workers, "skip_bad": config.skip_bad, "tick": lambda: s.budget.insist("the photos were read")}
        if config.feed == "decode":
            training, digest = scan(dataset.training, s.log, **how)
            dataset = Dataset(dataset.root, dataset.classes, training, dataset.validation, dataset.evaluation, dataset.held_out)
            photos = load_photos(dataset.splits[1:], config.cache_side, cache, s.log, **how)
        else:
            photos = load_photos(dataset.splits, config.cache_side, cache, s.log, **how)
            digest = photos["training"].digest
        digests = [digest, photos["validation"].digest, photos["evaluation"].digest]
        remember(s, "photos", "-".join(d[:8] for d in digests), f"the photos below {data}")
    return Material(dataset, photos.get("training"), photos["validation"], photos["evaluation"])


def remember(s: Session, what: str, digest: str, means: str) -> None:
    """Write down what the run was begun with; a later session must bring the same."""
    before = s.record.setdefault(what, digest)
    if before != digest:
        raise KitError(f"{means} are not those that the run in {s.out} was begun with ({before} then, {digest} now). Choose another --out.")
    s.identity = {"config": s.config.digest(), **s.identity, what: digest}


def make_batches(s: Session, m: Material, order: Order, augment: Augment) -> Batches:
    """Cached photos warped on the device, or JPEGs decoded by worker processes: the recipe says which."""
    data, device = s.config.data, s.device.device
    if m.training is not None:
        return CachedBatches(m.training, order, lambda pixels, sizes, g: training_views(pixels, sizes, g, data, augment), device)
    to_input = lambda views: normalise(views.permute(0, 3, 1, 2).float(), data.mean, data.std)  # noqa: E731
    return DecodingBatches(m.dataset.training, order, SeededPipeline(data, augment), to_input, device, data.workers)


# ── teacher ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def get_teacher(s: Session, m: Material, data: Path, given: Path | None) -> nn.Module:
    """The teacher, evaluated, frozen and checked: the file that is given, the competition's beside the photos, or one trained here."""
    config, classes = s.config.teacher, len(m.dataset.classes)
    with s.stage("teacher"):
        file = given or find_teacher(s, m, data) or train_teacher(s, m)
        teacher = load_teacher(file, config.arch, classes)
        digest, entry = sha256_of(file)[:16], s.record["stages"]["teacher"]
        remember(s, "teacher", digest, f"the weights in {file}")
        if "accuracy" not in entry:
            s.note("teacher", file=file.name, accuracy=predict.accuracy(on_device(teacher, s), m.validation, s.config.data))
        s.log(f"teacher {file}: validation accuracy {entry['accuracy']:.4f}")
        check_teacher(file, entry["accuracy"], config.expected_accuracy, classes)
    return teacher


def on_device(teacher: nn.Module, s: Session) -> nn.Module:
    """A copy to look through, folded and in the device's half precision; the original stays whole, for a stem may be taken from it."""
    return fold_batch_norm(copy.deepcopy(teacher)).to(device=s.device.device, dtype=s.device.teacher, memory_format=torch.channels_last)


def find_teacher(s: Session, m: Material, data: Path) -> Path | None:
    places = (m.dataset.root, m.dataset.root.parent, data)
    return next((place / s.rules.teacher_file for place in places if (place / s.rules.teacher_file).is_file()), None)


def check_teacher(file: Path, accuracy: float, expected: float | None, classes: int) -> None:
    if expected is not None and accuracy < expected - 0.01:
        raise KitError(
            f"The teacher {file} reaches {accuracy:.4f} on validation, {expected:.4f} was expected (teacher.expected_accuracy). "
            "Is it the right file, and does data.image_size fit it?"
        )
    if accuracy < 1.5 / classes:
        raise KitError(
            f"The teacher {file} reaches {accuracy:.4f} on validation, hardly better than chance. Are its classes in another order?"
        )


def train_teacher(s: Session, m: Material) -> Path:
    """A ResNet-18 from pretrained weights where they are on disk, else from scratch; its result is teacher.ckpt."""
    file, checkpoints = s.out / "teacher.ckpt", s.checkpoints("teacher")
    done = checkpoints.result()
    if done and file.is_file() and sha256_of(file) == done["sha256"]:
        s.write_metrics("teacher", done["history"])
        return file
    config = s.config.teacher
    torch.manual_seed(derive(config.train.seed, "teacher"))
    teacher = build_teacher(config.arch, len(m.dataset.classes)).to(memory_format=torch.channels_last)
    origin = start_from_pretrained(teacher)
    s.log(
        f"no teacher file: training {config.arch} " + (f"from {origin.name}" if origin else "from scratch (no pretrained weights on disk)")
    )

    def loss(images: Tensor, labels: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        return losses.ce(teacher(images), labels), {}

    best = train(s, m, "teacher", teacher, loss, config.train, config.augment)
    write_durably(file, torch_bytes(best["weights"]))
    history = s.histories["teacher"]
    checkpoints.clear()
    checkpoints.finish({"sha256": sha256_of(file), "history": history})
    return file


def torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# ── student ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def train(
    s: Session,
    m: Material,
    stage: str,
    network: nn.Module,
    loss: Any,
    plan: Train,
    augment: Augment,
    adapters: nn.Module | None = None,
) -> dict[str, Any]:
    """The best epoch of a stage's plan, by validation accuracy."""
    config = s.config
    photos = len(m.training) if m.training is not None else len(m.dataset.training)
    order = Order(photos, plan.batch_size, plan.seed)
    left_out = photos - order.steps_per_epoch * order.batch_size
    s.log(f"{stage}: {plan.epochs} epochs of {order.steps_per_epoch} steps of {order.batch_size} photos; each epoch leaves {left_out} out")
    return fit(
        network,
        loss,
        make_batches(s, m, order, augment),
        lambda model: predict.accuracy(model, m.validation, config.data),
        steps_per_epoch=order.steps_per_epoch,
        train=plan,
        checkpoints=s.checkpoints(stage),
        budget=s.budget,
        device=s.device,
        log=s.log,
        on_epoch=lambda history: s.write_metrics(stage, history),
        adapters=adapters,
    )


def distil(s: Session, m: Material, teacher: nn.Module) -> nn.Module:
    """The recipe's student under the recipe's objective."""
    config = s.config
    with s.stage("distil"):
        torch.manual_seed(derive(config.train.seed, "student"))
        student = build_student(config.student.name, config.student.widths, len(m.dataset.classes))
        for stem in [module for module in student.modules() if isinstance(module, FrozenStem)]:
            stem.copy_from(teacher)
        penalty = config.prune.gamma_penalty if config.prune else 0.0
        learn(s, m, "distil", student, teacher, config.train, penalty)
    return student


def prune(s: Session, m: Material, student: nn.Module) -> nn.Module:
    """The same student with fewer channels: a share of its parameters, and never more than the limit."""
    config, checkpoints = s.config, s.checkpoints("prune")
    with s.stage("prune"):
        name, classes = config.student.name, len(m.dataset.classes)
        if done := checkpoints.result():
            slimmer = build_student(name, done["widths"], classes)
            slimmer.load_state_dict(done["best"]["weights"])
            return slimmer
        before = count_parameters(student)
        limit = min(int(before * config.prune.keep), competition(config.limit or config.competition).max_parameters or before)
        slimmer, widths = slim(student, name, classes, config.data.image_size, limit)
        accuracy = predict.accuracy(slimmer.to(s.device.device).eval(), m.validation, config.data)
        s.log(f"prune: {before:,} → {count_parameters(slimmer):,} parameters, widths {list(widths)}, validation accuracy {accuracy:.4f}")
        checkpoints.finish({"widths": widths, "best": {"accuracy": accuracy, "epoch": 0, "weights": slimmer.cpu().state_dict()}})
        s.note("prune", accuracy=accuracy, parameters=count_parameters(slimmer), widths=widths)
    return slimmer


def finetune(s: Session, m: Material, student: nn.Module, teacher: nn.Module) -> nn.Module:
    """Distil the pruned student again. Its optimiser is new and holds *its* weights: the course's held the network from before."""
    config = s.config
    shorter = {"epochs": config.prune.finetune_epochs, "lr": config.prune.finetune_lr, "warmup_epochs": 0, "patience": None}
    with s.stage("finetune"):
        learn(s, m, "finetune", student, teacher, Train.model_validate(config.train.model_dump() | shorter), 0.0)
    return student


def learn(s: Session, m: Material, stage: str, student: nn.Module, teacher: nn.Module, plan: Train, gamma_penalty: float) -> None:
    """Distil `student` in place, leaving it with the weights of its best epoch; skipped where the result is there."""
    checkpoints, widths = s.checkpoints(stage), widths_of(student)
    if done := checkpoints.result():
        s.write_metrics(stage, done["history"])
    else:
        student.to(s.device.device)
        torch.manual_seed(derive(plan.seed, f"{stage} adapters"))
        objective = Objective(student, on_device(teacher, s), s.config.distill, s.config.data.image_size, gamma_penalty)
        rehearse(s, m, student)
        best = train(s, m, stage, student, objective, plan, s.config.data.augment, objective.adapters)
        done = {"widths": widths, "best": best, "history": s.histories[stage]}
        checkpoints.finish(done)
    student.load_state_dict(done["best"]["weights"])
    s.note(stage, accuracy=done["best"]["accuracy"], epoch=done["best"]["epoch"], parameters=count_parameters(student))


# ── the finish ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def quantize(s: Session, m: Material, student: nn.Module) -> Packed:
    """student.kit, and the student as read back from it: what is measured and predicted with from here on."""
    with s.stage("quantize"):
        file = s.out / "student.kit"
        size = pack(file, student, s.config, widths_of(student), m.dataset.classes, {"recipe": s.config.recipe})
        packed = unpack(file)
        packed.student.to(s.device.device)
        accuracy = predict.accuracy(packed.student, m.validation, s.config.data, flip=s.config.predict.flip)
        parameters = count_parameters(packed.student)
        over = check_limits(s.config.limit or s.config.competition, parameters, size)
        s.record |= {"validation_accuracy": accuracy, "parameters": parameters, "bytes": size, "over_the_limit": over}
        s.note("quantize", accuracy=accuracy, parameters=parameters, bytes=size)
        s.log(f"packed {file}: {parameters:,} parameters, {size:,} bytes, validation accuracy {accuracy:.4f}")
    return packed


def submit(s: Session, m: Material, packed: Packed, state: str, submissions: Path | None) -> None:
    """submission.csv from the packed student, checked against the evaluation photos and the competition, filed with its making."""
    with s.stage("submit"):
        answer = predict.logits(packed.student, m.evaluation, s.config.data, flip=s.config.predict.flip)
        most_frequent = int(np.bincount(m.dataset.training.labels).argmax())
        ids, csv = submission.ids_for(m.evaluation.names, s.rules), s.out / "submission.csv"
        submission.write_csv(csv, ids, predict.classes_of(answer, m.evaluation, most_frequent), s.rules)
        guesses = [ids[row] for row in m.evaluation.bad]
        if guesses:
            s.log(f"{len(guesses)} rows are guesses (class {most_frequent}), their photos do not decode: {', '.join(guesses)}")
        found = submission.problems(submission.read_csv(csv), s.rules, len(m.dataset.classes), ids) + s.record["over_the_limit"]
        s.record["submission"] = {"problems": found, "guessed_ids": guesses, "sha256": sha256_of(csv), "rows": len(ids)}
        report_submission(s, csv, state, found)
        if submissions and not s.record["partial"] and s.config.competition != "any":
            name = f"{s.config.recipe}-{s.config.digest()}"
            s.log(f"filed under {submission.file_away(submissions, name, csv, provenance(s, state))}")


def report_submission(s: Session, csv: Path, state: str, found: list[str]) -> None:
    kind = "partial (--subset), not to hand in" if s.record["partial"] else "provisional" if state == "suspended" else "checked"
    for problem in found:
        s.log(f"not to hand in: {problem}")
    s.log(f"{csv}: {s.record['submission']['rows']:,} rows, {kind}")


def provenance(s: Session, state: str) -> dict[str, Any]:
    """Where a submission came from, enough to make it again."""
    weights = [path.name for stage in ("finetune", "distil") for path in s.checkpoints(stage).files()[-1:]]
    kept = ("recipe", "validation_accuracy", "parameters", "bytes", "commit", "versions", "device", "photos", "teacher", "stages", "config")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "state": state,
        "competition": s.config.competition,
        "command": command(),
        "checkpoint": weights[0] if weights else None,
        "student_sha256": sha256_of(s.out / "student.kit"),
        "csv_sha256": s.record["submission"]["sha256"],
        **{key: s.record[key] for key in kept},
    }


def rehearse(s: Session, m: Material, student: nn.Module) -> None:
    """The hand-in on a few photos before training, so that what the budget must keep for it was measured on this machine."""
    file = s.out / ".rehearsal.kit"
    start = time.perf_counter()
    pack(file, student, s.config, widths_of(student), m.dataset.classes, {})
    packed = unpack(file).student.to(s.device.device)
    file.unlink()
    packing = time.perf_counter() - start
    predict.logits(packed, m.validation, s.config.data, limit=REHEARSED)  # once for what only the first time costs
    start = time.perf_counter()
    predict.logits(packed, m.validation, s.config.data, limit=REHEARSED)
    each = (time.perf_counter() - start) / min(REHEARSED, len(m.validation))
    views = 2 if s.config.predict.flip else 1
    evaluation = each * len(m.validation)
    s.budget.longest |= {"evaluate": evaluation, "hand in": packing + views * (evaluation + each * len(m.evaluation))}


def hand_in_best_so_far(s: Session, m: Material | None, pause: Suspended, submissions: Path | None) -> None:
    """Every session ends with a submission: a provisional one, from the best weights so far that keep the limit."""
    if m is None:
        raise KitError(
            f"{str(pause).capitalize()}. What an earlier session left is untouched: run the same command with a larger --budget."
        )
    found = [c for stage in ("finetune", "prune", "distil") if (c := candidate(s, stage))]
    if not found:
        raise KitError(
            f"{str(pause).capitalize()}, and nothing is trained yet that could be handed in. The decoded photos and what was saved are "
            "kept: run the same command again with a larger --budget."
        )
    limits = s.config.limit or s.config.competition
    students = []
    for widths, accuracy, weights in found:
        student = build_student(s.config.student.name, widths, len(m.dataset.classes))
        student.load_state_dict(weights)
        students.append((not check_limits(limits, count_parameters(student)), accuracy, student))
    best = max(students, key=lambda entry: entry[:2])[2]
    submit(s, m, quantize(s, m, best.eval()), "suspended", submissions)


def candidate(s: Session, stage: str) -> tuple[tuple[int, ...], float, dict[str, Tensor]] | None:
    """(widths, validation accuracy, weights) of the best epoch of a stage so far, else of its newest weights; None before any."""
    checkpoints = s.checkpoints(stage)
    state = checkpoints.result() or checkpoints.load()
    if state is None:
        return None
    pruned = s.checkpoints("prune").result() if stage == "finetune" else None
    widths = state.get("widths") or (pruned["widths"] if pruned else s.config.student.widths)
    best = state["best"]
    return widths, best["accuracy"], best["weights"] or state.get("ema") or state["network"]
