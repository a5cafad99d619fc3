"""Seed 003: DIST and network slimming on CIFAR's ResNets, and which of the two the accuracy comes from."""

from typing import Any

from kit.config.schema import Augment, Config, Data, Student, Train
from kit.config.terms import CE, DIST, Term
from kit.studies.study import Arm, Changes, Study, kept_answers, replaced

LABELS: tuple[Term, ...] = (CE(),)
WITH_DIST: tuple[Term, ...] = (CE(), DIST(temperature=4, weight=2))
WHOLE = 1_234_000
# What the seed's table says was left (its column heads are swapped): the share of channels that went, in percent → parameters.
LEFT = {5: 1_195_000, 10: 1_141_000, 15: 1_061_000, 20: 969_000, 25: 886_000}
# (starts from, fine-tuned under) → accuracies in the order of LEFT
PUBLISHED = {
    ("sparse-dist", "dist"): ("0.7534", "0.7494", "0.7419", "0.7332", "0.7255"),
    ("sparse-dist", "labels"): ("0.7394", "0.7336", "0.7235", "0.7040", "0.6870"),
    ("sparse", "labels"): ("0.7307", "0.7225", "0.7199", "0.7133", "0.7065"),
    ("sparse", "dist"): ("", "", "", "0.725", ""),
}
# what is held against the other fine-tuning of the same network, and not against the network itself
TWINS = {("sparse-dist", "labels"): "sparse-dist-then-dist", ("sparse", "dist"): "sparse-then-labels"}
SPARSITY = 1e-5
TEACHER, POST, PRE = "resnet32x4", "resnet8x4", "preresnet8x4"
TAUGHT_BY = "teacher"  # the arm
EPOCHS, FINETUNE, WARMUP, NARROWER, SHARE, STRONGER = 20, 5, 2, 4, 0.1666, 100


def recipe(student: str, terms: tuple[Term, ...], prune: dict[str, Any] | None = None) -> Config:
    """As published, but for the views: crops of seven tenths and more stand for shifts by four pixels."""
    config = Config(
        recipe="cifar-slim",
        competition="any",
        data=Data(
            image_size=32,
            crop_pct=1.0,
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
            augment=Augment(crop_scale=(0.7, 1.0), crop_ratio=(1, 1)),
        ),
        student=Student(name=student),
        distill=terms,
        train=Train(
            epochs=240,
            batch_size=64,
            optimizer="sgd",
            lr=0.05,
            weight_decay=5e-4,
            decay_everything=True,
            schedule="step",
            drops=(150 / 240, 180 / 240, 210 / 240),
        ),
    )
    return replaced(config, {"prune": prune})


def sparse(student: str, terms: tuple[Term, ...]) -> Config:
    return recipe(student, terms, {"keep": 1, "gamma_penalty": SPARSITY, "finetune_epochs": 0})


def pruned(student: str, left: int, tuned: str, **how: object) -> Config:
    """Fine-tuning under labels takes 60 epochs, under DIST all 240: it converges far more slowly, the seed says."""
    terms, epochs = (LABELS, 60) if tuned == "labels" else (WITH_DIST, 240)
    return recipe(student, terms, {"keep": left / WHOLE, "gamma_penalty": 0.0, "finetune_epochs": epochs, "finetune_lr": 0.01} | how)


def whole() -> list[Arm]:
    """The teacher and its students before anything goes."""
    return [
        Arm(TAUGHT_BY, recipe(TEACHER, LABELS), "resnet32x4, labels alone", "0.7942"),
        Arm("resnet8x4", recipe(POST, LABELS), "the student, labels alone", "0.7250"),
        Arm("resnet8x4-dist", recipe(POST, WITH_DIST), "with DIST", "0.7645", teacher=TAUGHT_BY, against="resnet8x4"),
        Arm("dist", recipe(PRE, WITH_DIST), "pre-activation, with DIST", "0.7519", teacher=TAUGHT_BY, against="resnet8x4-dist"),
        Arm("sparse", sparse(PRE, LABELS), "pre-activation, sparse", "0.7283"),
        Arm("sparse-dist", sparse(PRE, WITH_DIST), "pre-activation, sparse, with DIST", "0.7473", teacher=TAUGHT_BY),
        Arm("resnet8x4-sparse-dist", sparse(POST, WITH_DIST), "sparse, with DIST (the seed broke it off)", teacher=TAUGHT_BY),
    ]


def slimmed() -> list[Arm]:
    """Each sparse network at each share, fine-tuned in both ways."""
    arms = []
    for (start, tuned), accuracies in PUBLISHED.items():
        for (percent, left), published in zip(LEFT.items(), accuracies, strict=True):
            under = {"teacher": TAUGHT_BY} if tuned == "dist" else {}
            says = f"{start}, {percent} % of the channels, fine-tuned {'with DIST' if tuned == 'dist' else 'with labels alone'}"
            against = f"{TWINS[start, tuned]}-{percent}" if (start, tuned) in TWINS else start
            under |= {"begins": start, "against": against, "curve": f"{start}, then {tuned}"}
            arms.append(Arm(f"{start}-then-{tuned}-{percent}", pruned(PRE, left, tuned), says, published, **under))
    return arms


def controls() -> list[Arm]:
    """As many channels at random, new weights, and the network without pre-activation."""
    arms = []
    for percent, left in LEFT.items():
        config, says = pruned(PRE, left, "dist", criterion="random"), f"sparse-dist, as many at random ({percent} %), fine-tuned with DIST"
        under = {"teacher": TAUGHT_BY, "begins": "sparse-dist", "against": f"sparse-dist-then-dist-{percent}", "curve": "random, then dist"}
        arms.append(Arm(f"random-{percent}", config, says, **under))
    arms += [
        Arm(
            "scratch-20",
            pruned(PRE, LEFT[20], "dist", scratch=True, finetune_lr=0.05),
            "the network of sparse-dist-then-dist-20 with new weights",
            "0.7266",
            begins="sparse-dist",
            teacher=TAUGHT_BY,
            against="sparse-dist-then-dist-20",
        ),
        Arm(
            "resnet8x4-20",
            pruned(POST, LEFT[20], "dist"),
            "without pre-activation, 20 %, fine-tuned with DIST",
            begins="resnet8x4-sparse-dist",
            teacher=TAUGHT_BY,
            against="resnet8x4-sparse-dist",
        ),
    ]
    return arms


def cifar_slim() -> Study:
    question = (
        "What do slimming and DIST do for each other in a network that is small already: sparsity and fine-tuning, each with and without "
        "DIST, at 5 to 25 % of the channels, held against as many channels at random, against the pruned network trained from scratch, and "
        "against the network without pre-activation? Published are top-1 accuracies on CIFAR-100."
    )
    remarks = (
        "**What agrees.** DIST lifts the student without pre-activation by about as much as published. What was sparse under DIST stays "
        "ahead of what was sparse under labels: more comes from DIST before pruning than after. Where a quarter of the channels is gone, "
        "labels in its place cost the fine-tuning points; at smaller shares they cost less, as published, and less than chance does. A "
        "tenth of the channels goes for nothing.",
        "**What isn't told apart, and why.** Whether pre-activation costs anything where nothing is sparse; what a fine-tuning under DIST "
        "brings a network that was sparse under labels: it has five epochs here, and had 240. Three differences of four are smaller than "
        "published: there are ten classes instead of a hundred, and the teacher is fewer points ahead of its students. Made sparse under "
        "DIST, the network without pre-activation is 1.7 points ahead, and stays ahead at 20 %; the seed broke that arm off.",
        "**The controls.** Slimming's channels are better than as many at random by far before the fine-tuning. After it they are ahead at "
        "every share, and at none by more than chance. The pruned network with new weights, trained for as long as the whole one was, "
        "stays behind the fine-tuned one, as published, just short of being told apart.",
    )
    reduction = (
        f"CIFAR-10 or whatever is given, {SHARE:.1%} of its photos (9,996 of 60,000), every width a quarter (the same family, sixteen "
        f"times smaller), {EPOCHS} epochs, the first {WARMUP} at a rising rate (at the whole one DIST hardly teaches the pre-activation "
        f"network), {FINETUNE} of fine-tuning; the teacher resnet8x4 at half its widths under one cycle (32 layers learn less than the "
        f"student in as many minutes); the sparsity {SPARSITY:g} is {SPARSITY * STRONGER:g}, since the run has a hundredth of the steps"
    )
    return Study("cifar-slim", question, (*whole(), *slimmed(), *controls()), "sparse-dist", reduce, reduction, remarks)


def reduce(config: Config) -> Config:
    from kit.models.students import find  # torch takes seconds, and `kit --help` names all studies

    is_teacher = config.student.name == TEACHER
    name, narrower = ("resnet8x4", 2) if is_teacher else (config.student.name, NARROWER)
    widths = tuple(width // narrower for width in find(name)[0].widths)
    changes: Changes = {"student.name": name, "student.widths": widths, "data.subset": SHARE, "train.epochs": EPOCHS}
    changes |= {"train.schedule": "one_cycle", "train.drops": (), "train.lr": 0.1} if is_teacher else {"train.warmup_epochs": WARMUP}
    if config.prune:
        changes["prune.finetune_epochs"] = min(config.prune.finetune_epochs, EPOCHS if config.prune.scratch else FINETUNE)
        changes["prune.gamma_penalty"] = config.gamma_penalty * STRONGER
    return kept_answers(replaced(config, changes))
