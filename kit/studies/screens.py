"""The screens of the search for the best student of at most 60,000 parameters: many ideas, ten epochs, one seed.

That tells only large differences. Each arm is one change to the same try, which stays as it was: `record-screen` is about how a first
try is trained and how it is built, `record-second` takes what helped there as given and asks about the rest.
"""

from collections.abc import Sequence
from typing import Any

from kit.config.recipes import BOSS, KNOWN
from kit.config.schema import Config, Predict, Student, Teacher, Train
from kit.config.schema import Data as Photos
from kit.config.terms import AFD, AT, CE, CRD, DIST, DKD, KD, MLKD, RKD, SP, Hint, Review, SimKD, Term
from kit.studies.study import Arm, Changes, Study, proving_ground, replaced

PHOTOS = "photos of Food-101 regrouped into Food-11's classes, stored at 64 px"
# The blocks that end the students' maps of a quarter, an eighth and a sixteenth of the photo's side are held against the teacher's.
STAGES = {
    "record": (1, 3, 5),
    "wide": (0, 2, 4),
    "even": (1, 3, 5),
    "steep": (0, 2, 5),
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
    """What the first screen varies: the fastest of the networks, under what other small networks are usually trained with."""
    return Config(
        recipe="record",
        competition="hw13-2023",
        data=Photos(augment=KNOWN),
        student=Student(name=FIRST),
        distill=(KD(temperature=4), LITTLE, *hints(FIRST)),
        train=Train(epochs=600, lr=4e-3, weight_decay=0.02, warmup_epochs=2, clip_norm=5, ema_decay=0.998),
        predict=Predict(flip=True),
    )


def second() -> Config:
    """What the second varies: the same in smaller and larger steps. The teacher's answers are kept: most arms draw the same views."""
    return replaced(first(), {"train.batch_size": 64, "train.lr": 16e-3, "teacher": Teacher(store="float16").model_dump()})


def under(config: Config, name: str) -> Config:
    """Another network under a config's training."""
    terms = [term for term in config.distill if not isinstance(term, Hint)] + list(hints(name))
    return replaced(config, {"student.name": name, "student.widths": (), "distill": dump(terms), "limit": None})


def dump(terms: Sequence[Term]) -> list[dict[str, Any]]:
    return [term.model_dump() for term in terms]


class Varied:
    """Arms that are one change to `base`."""

    def __init__(self, base: Config):
        self.base = base

    def __call__(self, name: str, changes: Changes, says: str) -> Arm:
        return Arm(name, replaced(self.base, changes), says)

    def network(self, name: str) -> Arm:
        return Arm(f"net-{name}", under(self.base, name), f"the network {name}")

    def views(self, name: str, says: str, **changes: float | tuple[float, float]) -> Arm:
        return self(name, {"data.augment": KNOWN.model_dump() | changes}, says)

    def terms(self, name: str, says: str, *these: Term) -> Arm:
        return self(name, {"distill": dump(these)}, says)


def screen() -> Study:
    varied = Varied(first())
    arms = (
        Arm("first", first(), "the first try"),
        varied("batch-64", {"train.batch_size": 64}, "batches of 64"),
        varied("batch-32", {"train.batch_size": 32}, "batches of 32"),
        varied("batch-64-lr-8e-3", {"train.batch_size": 64, "train.lr": 8e-3}, "batches of 64, twice the rate"),
        varied("batch-64-lr-16e-3", {"train.batch_size": 64, "train.lr": 16e-3}, "batches of 64, four times the rate"),
        varied("batch-64-lr-32e-3", {"train.batch_size": 64, "train.lr": 32e-3}, "batches of 64, eight times the rate"),
        varied("batch-32-lr-8e-3", {"train.batch_size": 32, "train.lr": 8e-3}, "batches of 32, twice the rate"),
        varied("no-ema", {"train.ema_decay": None}, "no average of the weights"),
        varied("ema-0.99", {"train.ema_decay": 0.99}, "a shorter average of the weights"),
        varied("lr-8e-3", {"train.lr": 8e-3}, "twice the rate"),
        varied("muon", {"train.optimizer": "muon"}, "Muon"),
        varied("one-cycle", {"train.schedule": "one_cycle", "train.warmup_epochs": 0}, "one cycle"),
        *(varied.network(name) for name in ("record", "deep", "inverted", "branched", "bottleneck")),
        varied("views-boss", {"data.augment": BOSS.model_dump()}, "boss's views: rotations and vertical flips"),
    )
    question = (
        "Which ways of training and building move a student of at most 60,000 parameters, and which don't? Each is one change to the same "
        f"first try, `first`: the network `{FIRST}`, KD at T = 4 with a tenth of cross entropy and FitNets' hints, AdamW, views that the "
        "teacher knows."
    )
    return Study("record-screen", question, arms, "first", proving_ground(10), f"96 px, 10 epochs, {PHOTOS}", (SHORT, *REMARKS))


def second_screen() -> Study:
    base, varied = second(), Varied(second())
    kd, hinted = KD(temperature=4), hints(FIRST)
    maps = {"student": tuple(hint.student for hint in hinted), "teacher": tuple(hint.teacher for hint in hinted)}
    last = {"student": maps["student"][-1], "teacher": "layer4"}
    logits = (
        varied("labels-alone", {"distill": dump([CE()]), "teacher.store": None}, "labels alone, no teacher"),
        varied.terms("kd-alone", "no labels", kd, *hinted),
        varied.terms("kd-T1", "T = 1", KD(temperature=1), LITTLE, *hinted),
        varied.terms("kd-T2", "T = 2", KD(temperature=2), LITTLE, *hinted),
        varied.terms("kd-T8", "T = 8", KD(temperature=8), LITTLE, *hinted),
        varied.terms("kd-z", "standardised logits, T = 2, weight 9", KD(temperature=2, weight=9, standardise=True), LITTLE, *hinted),
        varied.terms("dkd", "decoupled KD, β = 2", DKD(temperature=4, alpha=1, beta=2), LITTLE, *hinted),
        varied.terms("dist", "DIST, weight 0.5", DIST(temperature=4, weight=0.5), LITTLE, *hinted),
        varied.terms("mlkd", "multi-level logits", MLKD(weight=0.1), LITTLE, *hinted),
        varied.terms("labels-more", "as much cross entropy as KD", kd, CE(), *hinted),
    )
    features = (
        varied.terms("no-hints", "no term of feature maps", kd, LITTLE),
        varied.terms("hints-3", "hints weigh 3", kd, LITTLE, *hints(FIRST, 3)),
        varied.terms("hints-10", "hints weigh 10", kd, LITTLE, *hints(FIRST, 10)),
        varied.terms("at", "attention transfer", kd, LITTLE, *(AT(weight=500, student=h.student, teacher=h.teacher) for h in hinted)),
        varied.terms("sp", "similarity, from the last maps", kd, LITTLE, SP(weight=3000, **last)),
        varied.terms("rkd", "relational, from the last maps", kd, LITTLE, RKD(weight=0.1, **last)),
        varied.terms("crd", "contrastive, from the last maps", kd, LITTLE, CRD(weight=0.2, **last)),
        varied.terms("review", "ReviewKD", kd, LITTLE, Review(**maps)),
        varied.terms("afd", "stages matched by attention", kd, LITTLE, AFD(weight=10, **maps)),
        varied(
            "simkd",
            {"student.name": "bottleneck", "student.widths": WIDE_END, "distill": dump([SimKD(student="blocks.3", teacher="layer4")])},
            "the teacher's classifier on maps of a bottleneck that ends as wide",
        ),
    )
    training = (
        varied("batch-128", {"train.batch_size": 128}, "batches of 128"),
        varied("no-decay", {"train.weight_decay": 0.0}, "no weight decay"),
        varied("decay-0.1", {"train.weight_decay": 0.1}, "five times the weight decay"),
        varied("no-clip", {"train.clip_norm": None}, "gradients of any length"),
        varied("no-ema", {"train.ema_decay": None}, "no average of the weights"),
        varied("muon-2e-2", {"train.optimizer": "muon", "train.lr": 2e-2}, "Muon"),
        varied("sgd", {"train.optimizer": "sgd", "train.lr": 0.1, "train.weight_decay": 5e-4}, "SGD, rate 0.1"),
        varied("one-cycle", {"train.schedule": "one_cycle", "train.warmup_epochs": 0}, "one cycle"),
        varied("linear", {"train.schedule": "linear"}, "the rate falls along a line"),
        varied("sam", {"train.sam_rho": 0.05}, "sharpness-aware, ρ = 0.05"),
        varied("balanced", {"train.balanced": True}, "every class as often as any other"),
    )
    networks = tuple(varied.network(name) for name in ("record", "deep", "even", "steep", "branched", "inverted", "large"))
    seen = (
        varied("views-boss", {"data.augment": BOSS.model_dump()}, "boss's views: rotations and vertical flips"),
        varied.views("views-mild", "crops of 0.6 and more", crop_scale=(0.6, 1.0)),
        varied.views("views-wild", "crops of 0.2 and more", crop_scale=(0.2, 1.0)),
        varied.views("jitter", "contrast and saturation too", contrast=0.2, saturation=0.2),
        varied.views("mixup", "mixup 0.2", mixup=0.2),
        varied.views("cutmix", "CutMix", cutmix=1.0),
    )
    question = (
        "Which losses, networks, views and optimisers move a student of at most 60,000 parameters that is trained in small batches at a "
        f"large rate? Each is one change to `base`: the first screen's `batch-64-lr-16e-3`, which stands on the network `{FIRST}`."
    )
    arms = (Arm("base", base, "what the first screen came to"), *logits, *features, *training, *networks, *seen)
    return Study("record-second", question, arms, "base", proving_ground(10), f"96 px, 10 epochs, {PHOTOS}", remarks=REMARKS)


SHORT = (
    "`ema-0.99` is `first` again: in a run's n-th step an average keeps no more than 1 − n^(−2/3) of itself, which in these 780 steps "
    "comes to 0.988, and neither to 0.99 nor to 0.998."
)
REMARKS = ("Two arms ran at a time, a core each, beside other work: minutes do not compare. Arms that are missing have not run yet.",)
