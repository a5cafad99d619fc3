"""The search for the best student of at most 60,000 parameters: what was tried, each against the recipe as it was when it was tried.

`record-screen` asks many ideas for ten epochs with one seed, which tells only large differences; `record` asks the finalists for forty
with three.
"""

from kit.config.recipes import BOSS, KNOWN, boss, medium, record
from kit.config.schema import Config
from kit.config.terms import CE, DIST, DKD, KD, MLKD, Hint
from kit.studies.study import Arm, Changes, Study, proving_ground, replaced

PHOTOS = "photos of Food-101 regrouped into Food-11's classes, stored at 64 px"
# The blocks that end the students' maps of an eighth, a sixteenth and a thirty-second of the photo's side are held against the teacher's.
STAGES = {
    "record": (1, 3, 5),
    "wide": (0, 2, 4),
    "deep": (0, 4, 8),
    "inverted": (0, 2, 5),
    "large": (1, 4, 6),
    "branched": (0, 2, 4),
    "bottleneck": (0, 1, 2),
    "boss": (0, 1, 2),
}


def hints(name: str, weight: float = 1.0) -> list[dict]:
    """FitNets' hints from the teacher's first three stages."""
    pairs = zip(STAGES[name], (1, 2, 3), strict=True)
    return [Hint(weight=weight, student=f"blocks.{i}", teacher=f"layer{j}").model_dump() for i, j in pairs]


def network(name: str) -> Config:
    """Another network under record's training."""
    base = record()
    terms = [term.model_dump() for term in base.distill if not isinstance(term, Hint)]
    return replaced(base, {"student.name": name, "student.widths": (), "distill": terms + hints(name), "limit": None})


def varied(name: str, changes: Changes, says: str) -> Arm:
    return Arm(name, replaced(record(), changes), says)


def terms(*logits: CE | KD | DKD | DIST | MLKD, hint: float = 1.0) -> dict:
    student = record().student.name
    return {"distill": [term.model_dump() for term in logits] + (hints(student, hint) if hint else [])}


def opponents() -> tuple[Arm, ...]:
    return (
        Arm("boss", boss(), "the published recipe, 99,891 parameters"),
        Arm("course", medium(), "the course's student, KD with T = 20, 59,723 parameters"),
        Arm("record", record(), "as it is"),
        Arm("boss-network", replaced(network("boss"), {"limit": "hw13-2022"}), "the published network under record's training"),
    )


def screen() -> Study:
    """One seed, ten epochs."""
    little = CE(weight=0.1)
    networks = tuple(
        Arm(f"net-{name}", network(name), f"the network {name}") for name in STAGES if name not in ("boss", record().student.name)
    )
    losses = (
        varied("no-hints", terms(KD(temperature=4), little, hint=0), "without hints"),
        varied("hints-3", terms(KD(temperature=4), little, hint=3), "hints weigh 3"),
        varied("kd-alone", terms(KD(temperature=4)), "no labels"),
        varied("kd-T1", terms(KD(temperature=1), little), "T = 1"),
        varied("kd-T2", terms(KD(temperature=2), little), "T = 2"),
        varied("kd-T8", terms(KD(temperature=8), little), "T = 8"),
        varied("kd-z", terms(KD(temperature=2, weight=9, standardise=True), little), "standardised logits, T = 2, weight 9"),
        varied("dkd", terms(DKD(temperature=4, alpha=1, beta=2), little), "decoupled KD, β = 2"),
        varied("dist", terms(DIST(temperature=4, weight=0.5), little), "DIST, weight 0.5"),
        varied("mlkd", terms(MLKD(weight=0.1), little), "multi-level logits"),
    )
    training = (
        varied("lr-2e-3", {"train.lr": 2e-3}, "half the rate"),
        varied("lr-8e-3", {"train.lr": 8e-3}, "twice the rate"),
        varied("batch-64", {"train.batch_size": 64}, "batches of 64"),
        varied("muon", {"train.optimizer": "muon"}, "Muon"),
        varied("no-decay", {"train.weight_decay": 0.0}, "no weight decay"),
        varied("one-cycle", {"train.schedule": "one_cycle", "train.warmup_epochs": 0}, "one cycle"),
    )
    views = (
        varied("views-boss", {"data.augment": BOSS.model_dump()}, "boss's views: rotations and vertical flips"),
        varied("views-mild", {"data.augment": KNOWN.model_dump() | {"crop_scale": (0.6, 1.0)}}, "crops of 0.6 and more"),
        varied("views-wild", {"data.augment": KNOWN.model_dump() | {"crop_scale": (0.2, 1.0)}}, "crops of 0.2 and more"),
        varied("mixup", {"data.augment": KNOWN.model_dump() | {"mixup": 0.2}}, "mixup 0.2"),
        varied("cutmix", {"data.augment": KNOWN.model_dump() | {"cutmix": 1.0}}, "CutMix"),
        varied("jitter", {"data.augment": KNOWN.model_dump() | {"contrast": 0.2, "saturation": 0.2}}, "contrast and saturation too"),
    )
    question = "Which ideas move a student of at most 60,000 parameters, and which don't? Each against the recipe `record` as it stands."
    return Study(
        "record-screen",
        question,
        opponents() + networks + losses + training + views,
        "record",
        proving_ground(10),
        f"96 px, 10 epochs, {PHOTOS}",
    )


def finals() -> Study:
    """Three seeds, forty epochs."""
    question = "Does `record` (at most 60,000 parameters) beat the published recipe of 99,891, and by how much more than seeds can explain?"
    return Study("record", question, opponents(), "boss", proving_ground(40), f"96 px, 40 epochs, {PHOTOS}")
