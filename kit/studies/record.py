"""The search for the best student of at most 60,000 parameters: what was tried, and whether it holds.

`record-screen` asks many ideas for ten epochs with one seed, which tells only large differences, each against one first try that stays
as it was; `record` asks the recipe that came of it for forty epochs with three seeds, against its opponents.
"""

from collections.abc import Sequence
from typing import Any

from kit.config.recipes import BOSS, KNOWN, boss, medium, record
from kit.config.schema import Config, Predict, Student, Train
from kit.config.schema import Data as Photos
from kit.config.terms import AFD, AT, CE, CRD, DIST, DKD, KD, MLKD, RKD, SP, Hint, Review, SimKD, Term
from kit.studies.study import Arm, Changes, Study, proving_ground, replaced

PHOTOS = "photos of Food-101 regrouped into Food-11's classes, stored at 64 px"
# The blocks that end the students' maps of a quarter, an eighth and a sixteenth of the photo's side are held against the teacher's.
STAGES = {
    "record": (1, 3, 5),
    "wide": (0, 2, 4),
    "deep": (0, 4, 8),
    "inverted": (0, 2, 5),
    "large": (0, 3, 5),
    "branched": (0, 2, 4),
    "bottleneck": (0, 1, 2),
    "boss": (0, 1, 2),
}
FIRST = "wide"
WIDE_END = (32, 16, 16, 56, 24, 24, 92, 34, 30, 128, 26, 26, 512)  # of `bottleneck`: as many channels as the teacher's classifier takes
LITTLE = CE(weight=0.1)


def hints(name: str, weight: float = 1.0) -> tuple[Hint, ...]:
    """FitNets' hints from the teacher's first three stages."""
    pairs = zip(STAGES[name], (1, 2, 3), strict=True)
    return tuple(Hint(weight=weight, student=f"blocks.{i}", teacher=f"layer{j}") for i, j in pairs)


def first() -> Config:
    """What the screen varies: the fastest of the networks, under what other small networks are usually trained with."""
    return Config(
        recipe="record",
        competition="hw13-2023",
        data=Photos(augment=KNOWN),
        student=Student(name=FIRST),
        distill=(KD(temperature=4), LITTLE, *hints(FIRST)),
        train=Train(epochs=600, lr=4e-3, weight_decay=0.02, warmup_epochs=2, clip_norm=5, ema_decay=0.998),
        predict=Predict(flip=True),
    )


def under(config: Config, name: str) -> Config:
    """Another network under a config's training."""
    terms = [term for term in config.distill if not isinstance(term, Hint)] + list(hints(name))
    return replaced(config, {"student.name": name, "student.widths": (), "distill": dump(terms), "limit": None})


def dump(terms: Sequence[Term]) -> list[dict[str, Any]]:
    return [term.model_dump() for term in terms]


def varied(name: str, changes: Changes, says: str) -> Arm:
    return Arm(name, replaced(first(), changes), says)


def views(**changes: float | tuple[float, float]) -> Changes:
    return {"data.augment": KNOWN.model_dump() | changes}


def terms(*these: Term) -> Changes:
    return {"distill": dump(these)}


def screen() -> Study:
    """One seed, ten epochs."""
    kd, hinted = KD(temperature=4), hints(FIRST)
    maps = {"student": tuple(hint.student for hint in hinted), "teacher": tuple(hint.teacher for hint in hinted)}
    last = {"student": maps["student"][-1], "teacher": "layer4"}
    training = (
        varied("batch-64", {"train.batch_size": 64}, "batches of 64"),
        varied("batch-32", {"train.batch_size": 32}, "batches of 32"),
        varied("batch-64-lr-8e-3", {"train.batch_size": 64, "train.lr": 8e-3}, "batches of 64, twice the rate"),
        varied("batch-64-lr-16e-3", {"train.batch_size": 64, "train.lr": 16e-3}, "batches of 64, four times the rate"),
        varied("batch-64-lr-32e-3", {"train.batch_size": 64, "train.lr": 32e-3}, "batches of 64, eight times the rate"),
        varied("lr-16e-3", {"train.lr": 16e-3}, "four times the rate"),
        varied("batch-32-lr-8e-3", {"train.batch_size": 32, "train.lr": 8e-3}, "batches of 32, twice the rate"),
        varied("no-ema", {"train.ema_decay": None}, "no average of the weights"),
        varied("ema-0.99", {"train.ema_decay": 0.99}, "a shorter average of the weights"),
        varied("lr-2e-3", {"train.lr": 2e-3}, "half the rate"),
        varied("lr-8e-3", {"train.lr": 8e-3}, "twice the rate"),
        varied("muon", {"train.optimizer": "muon"}, "Muon"),
        varied("muon-2e-2", {"train.optimizer": "muon", "train.lr": 2e-2}, "Muon, five times the rate"),
        varied("one-cycle", {"train.schedule": "one_cycle", "train.warmup_epochs": 0}, "one cycle"),
        varied("no-decay", {"train.weight_decay": 0.0}, "no weight decay"),
        varied("sam", {"train.sam_rho": 0.05}, "sharpness-aware, ρ = 0.05"),
        varied("balanced", {"train.balanced": True}, "every class as often as any other"),
    )
    networks = tuple(Arm(f"net-{name}", under(first(), name), f"the network {name}") for name in STAGES if name not in ("boss", FIRST))
    seen = (
        varied("views-boss", {"data.augment": BOSS.model_dump()}, "boss's views: rotations and vertical flips"),
        varied("views-mild", views(crop_scale=(0.6, 1.0)), "crops of 0.6 and more"),
        varied("views-wild", views(crop_scale=(0.2, 1.0)), "crops of 0.2 and more"),
        varied("jitter", views(contrast=0.2, saturation=0.2), "contrast and saturation too"),
        varied("mixup", views(mixup=0.2), "mixup 0.2"),
        varied("cutmix", views(cutmix=1.0), "CutMix"),
    )
    logits = (
        varied("labels-alone", terms(CE()), "labels alone, no teacher"),
        varied("kd-alone", terms(kd, *hinted), "no labels"),
        varied("kd-T1", terms(KD(temperature=1), LITTLE, *hinted), "T = 1"),
        varied("kd-T2", terms(KD(temperature=2), LITTLE, *hinted), "T = 2"),
        varied("kd-T8", terms(KD(temperature=8), LITTLE, *hinted), "T = 8"),
        varied("kd-z", terms(KD(temperature=2, weight=9, standardise=True), LITTLE, *hinted), "standardised logits, T = 2, weight 9"),
        varied("dkd", terms(DKD(temperature=4, alpha=1, beta=2), LITTLE, *hinted), "decoupled KD, β = 2"),
        varied("dist", terms(DIST(temperature=4, weight=0.5), LITTLE, *hinted), "DIST, weight 0.5"),
        varied("mlkd", terms(MLKD(weight=0.1), LITTLE, *hinted), "multi-level logits"),
    )
    features = (
        varied("no-hints", terms(kd, LITTLE), "no term of feature maps"),
        varied("hints-3", terms(kd, LITTLE, *hints(FIRST, 3)), "hints weigh 3"),
        varied("at", terms(kd, LITTLE, *(AT(weight=1000, student=h.student, teacher=h.teacher) for h in hinted)), "attention transfer"),
        varied("sp", terms(kd, LITTLE, SP(weight=3000, **last)), "similarity, from the last maps"),
        varied("rkd", terms(kd, LITTLE, RKD(weight=0.1, **last)), "relational, from the last maps"),
        varied("crd", terms(kd, LITTLE, CRD(weight=0.2, **last)), "contrastive, from the last maps"),
        varied("review", terms(kd, LITTLE, Review(**maps)), "ReviewKD"),
        varied("afd", terms(kd, LITTLE, AFD(weight=10, **maps)), "stages matched by attention"),
        varied(
            "simkd",
            {"student.name": "bottleneck", "student.widths": WIDE_END} | terms(SimKD(student="blocks.3", teacher="layer4")),
            "the teacher's classifier on maps of a bottleneck that ends as wide",
        ),
    )
    question = (
        "Which ideas move a student of at most 60,000 parameters, and which don't? Each is one change to the same first try, `first`: "
        f"the network `{FIRST}`, KD at T = 4 with a tenth of cross entropy and FitNets' hints, AdamW, views that the teacher knows."
    )
    return Study(
        "record-screen",
        question,
        (Arm("first", first(), "the first try"), *training, *networks, *seen, *logits, *features),
        "first",
        proving_ground(10),
        f"96 px, 10 epochs, {PHOTOS}",
        remarks=(
            "Two arms ran at a time, a core each, beside other work: minutes do not compare. Arms that are missing have not run yet.",
        ),
    )


def finals() -> Study:
    """Three seeds, forty epochs."""
    arms = (
        Arm("boss", boss(), "the published recipe, 99,891 parameters"),
        Arm("course", medium(), "the course's student, KD with T = 20, 59,723 parameters"),
        Arm("record", record(), "the recipe"),
        Arm("boss-network", replaced(under(record(), "boss"), {"limit": "hw13-2022"}), "the published network under record's training"),
    )
    question = "Does `record` (at most 60,000 parameters) beat the published recipe of 99,891, and by how much more than seeds can explain?"
    return Study("record", question, arms, "boss", proving_ground(40), f"96 px, 40 epochs, {PHOTOS}")
