"""Seed 004, a student's report: teachers of two strengths, distillation against depthwise convolutions, pruning curves, groups."""

from kit.config.schema import Config
from kit.config.terms import Term
from kit.studies.hw7 import DISTILLED, LABELS, REDUCTION, course, course_ground
from kit.studies.study import Arm, Study, kept_answers, replaced

EPOCHS, FINETUNE = 12, 4
KEEPS = (0.9, 0.7, 0.5, 0.3)
METHODS = {"slimming": "by γ of batch norm", "magnitude": "by the norm of the weights", "random": "at random, the control"}
SMALLER = 50  # where a student is given by its size, that is divided by this in the reduction
MEGABYTE = 250_000  # parameters of float32


def hw7_report() -> Study:
    sixty = {"train__epochs": 60}
    teachers = (
        Arm("teacher-scratch", course("timm/resnet18", LABELS, **sixty), "ResNet-18 from scratch", "0.8009"),
        Arm("student-alone", course("mobilenet", LABELS, **sixty), "MobileNet's blocks, labels alone", "0.7988"),
        Arm("student-weak", course("mobilenet", DISTILLED, **sixty), "taught by teacher-scratch", "0.8205", teacher="teacher-scratch"),
        Arm(
            "student-strong",
            course("mobilenet", DISTILLED, **sixty),
            "taught by the pretrained ResNet-18 (published 0.8841)",
            "0.8473",
            against="student-weak",
        ),
    )
    question = (
        "Seed 004's four questions: what a weak and a strong teacher bring to one student; distillation or depthwise convolutions at one "
        "size; accuracy by parameters under two ways of pruning and a random one; how many groups a convolution should have at about 1 MB. "
        "Published are validation accuracies on Food-11."
    )
    remarks = (
        "**Teachers.** The students stand in the published order, the strong teacher's first and the one without a teacher last, and no "
        "two are told apart: after twelve epochs a ResNet-18 from new weights knows hardly more than its student.",
        "**One size.** Depthwise convolutions are ahead of distilled plain ones by a point, published are two, with a third more "
        "parameters, as published; that is not told from chance. At equal parameters less of it is left, with a teacher or without. The "
        "big network is no better than the small ones: a third of the photos and twelve epochs are not enough for it, nor for what it "
        "could teach.",
        "**Pruning.** A tenth of the parameters goes for nothing by γ or by the norm: the epochs after it bring what it took. Slimming is "
        "better than as many at random, and than magnitude where 70 or 50 % are left.",
        "**Groups.** The other way round than published: as many groups as channels are better than one; two and four are not told from "
        "either. At equal parameters that network is the widest, and learns fastest; the published ones were trained to their end.",
    )
    reduction = f"{EPOCHS} epochs, {FINETUNE} after pruning, sizes above 1 M divided by {SMALLER}, {REDUCTION}"
    arms = (*teachers, *at_one_size(), *curves(), *groups())
    return Study("hw7-report", question, arms, "student-alone", reduce, reduction, remarks)


def sized(student: str, parameters: int, terms: tuple[Term, ...], **changes: object) -> Config:
    return course(student, terms, student__parameters=parameters, train__epochs=250, **changes)


def small(student: str, terms: tuple[Term, ...]) -> Config:
    return sized(student, 4_320_000, terms)


def at_one_size() -> tuple[Arm, ...]:
    """The seed distils to 4.32 M and goes depthwise at 5.92 M; the others tell the method from the size and the shape."""
    return (
        Arm("big", sized("cnn", 54_340_000, LABELS), "plain 3×3 convolutions, 54.34 M", "0.8723", against="small-labels"),
        Arm("small-labels", small("cnn", LABELS), "plain 3×3 convolutions, 4.32 M, labels alone"),
        Arm(
            "small-distilled",
            small("cnn", DISTILLED),
            "plain 3×3 convolutions, 4.32 M, distilled from big",
            "0.7994",
            teacher="big",
            against="small-labels",
        ),
        Arm(
            "depthwise", sized("cnn-depthwise", 5_920_000, LABELS), "depthwise at 5.92 M, labels alone", "0.8182", against="small-distilled"
        ),
        Arm("depthwise-small", small("cnn-depthwise", LABELS), "depthwise at 4.32 M, labels alone", against="small-labels"),
        Arm(
            "depthwise-distilled",
            small("cnn-depthwise", DISTILLED),
            "depthwise at 4.32 M, distilled from big",
            teacher="big",
            against="depthwise-small",
        ),
    )


def curves() -> tuple[Arm, ...]:
    """One sparse student, pruned in each way to each size."""
    everything = {"keep": 1, "finetune_epochs": 0}
    arms = [Arm("whole", course("hw7", DISTILLED, prune=everything), "the course's student, to be pruned")]
    for method, says in METHODS.items():
        for keep in KEEPS:
            prune = {"criterion": method, "keep": keep, "finetune_epochs": 20}
            config, percent = course("hw7", DISTILLED, prune=prune), f"{100 * keep:.0f}"
            other = "whole" if method == "slimming" else f"slimming-{percent}"
            arms.append(Arm(f"{method}-{percent}", config, f"{percent}% left, {says}", begins="whole", against=other, curve=method))
    return tuple(arms)


def groups() -> tuple[Arm, ...]:
    """cnn-depthwise has as many groups as channels, and pointwise convolutions between them."""
    table = (
        ("groups-all", "cnn-depthwise", 1.08, "0.7635", ""),
        ("groups-1", "cnn", 1.13, "0.8011", "groups-all"),
        ("groups-2", "cnn/2", 1.07, "0.7859", "groups-1"),
        ("groups-4", "cnn/4", 1.08, "", "groups-1"),
    )
    return tuple(
        Arm(
            name,
            course(student, LABELS, student__parameters=int(size * MEGABYTE)),
            f"{student} at {size} MB of float32",
            published,
            against=other,
        )
        for name, student, size, published, other in table
    )


def reduce(config: Config) -> Config:
    config = kept_answers(course_ground(config, EPOCHS, FINETUNE))
    size = config.student.parameters
    return replaced(config, {"student.parameters": size // SMALLER}) if size and size > 1_000_000 else config
