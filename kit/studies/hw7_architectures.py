"""Seed 000: four networks, labels against distillation, and what it found out by doing it wrong."""

from functools import partial

from kit.config.recipes import BOSS
from kit.config.terms import CE, L2, FixedKD
from kit.studies.hw7 import DISTILLED, LABELS, REDUCTION, course, course_ground
from kit.studies.study import Arm, Study

EPOCHS = 10
# KD at a high temperature tends to ‖student - teacher‖² / (2 · classes) of centred logits (Hinton et al. 2015, section 2.1): so the two
# pull about equally hard.
REGRESSED = (L2(weight=0.5 / 11), CE(weight=0.5))


def hw7_architectures() -> Study:
    arms = (
        Arm("resnet18", course("timm/resnet18", LABELS), "the teacher's network, labels alone"),
        Arm("deep-labels", course("cnn-deep", LABELS), "1,083,595 parameters, labels alone", "0.72", against="plain-labels"),
        Arm("deep", course("cnn-deep", DISTILLED), "distilled", "0.75", against="deep-labels"),
        Arm("plain-labels", course("cnn-depthwise", LABELS), "454,667 parameters, labels alone", "0.67"),
        Arm("plain", course("cnn-depthwise", DISTILLED), "distilled", against="plain-labels"),
        Arm("course-labels", course("hw7", LABELS), "the course's 256,779 parameters, labels alone"),
        Arm("course", course("hw7", DISTILLED), "distilled", "0.7093"),
        Arm("richer-views", course("hw7", DISTILLED, data__augment=BOSS.model_dump()), "rotations that the teacher never saw", "0.675"),
        Arm("fixed-labels", course("hw7", (FixedKD(weight=0.5, temperature=20), CE(weight=0.5))), "soft labels computed once"),
        Arm("l2-logits", course("hw7", REGRESSED), "to do: an L2 loss, read as one between the logits"),
        Arm("l2-weights", course("hw7", DISTILLED, train__weight_decay=0.1), "to do: an L2 loss, read as ten times the weight decay"),
    )
    question = (
        "Which of seed 000's four networks is worth its size, what does distillation bring to each, and what do richer views, soft labels "
        "that are computed once, and the L2 loss of its to-do list do? Published are validation accuracies on Food-11 in logs that were "
        "broken off and gone on with by hand."
    )
    remarks = (
        "**What agrees.** Distillation brings the deep network as much as published, and views that the teacher has never seen cost the "
        "course's student nearly as much.",
        "**What doesn't, and why.** Under labels the deep network is not told from the plain one, and the plain one is ahead of the "
        "course's distilled student; published, depth brings five points and the plain network is behind. Depth wants more than ten epochs "
        "of a third of the photos: the published logs are hundreds of epochs long, and ResNet-18 from new weights comes last here.",
        "**The rest of its list.** Soft labels computed once, of the plain view, and the two readings of an L2 loss are not told from "
        "distillation as it was: crops change what the teacher would say less than rotations do.",
    )
    reduction = f"{EPOCHS} epochs, {REDUCTION}"
    reduced = partial(course_ground, epochs=EPOCHS)
    return Study("hw7-architectures", question, arms, "course", reduced, reduction, remarks, layers=True)
