"""What `kit new` proposed until 1.6, on as few photos as people have of their own: AdamW against Muon."""

from kit.config.schema import Config
from kit.config.terms import CE, KD
from kit.studies.record import even
from kit.studies.screens import PHOTOS, dump
from kit.studies.study import Arm, Changes, Study, kept_answers, replaced

TERMS = dump([KD(temperature=4), CE(weight=0.1)])
COUNTS: dict[int, Changes] = {2_000: {"data.subset": 0.2, "train.batch_size": 64}, 600: {"data.subset": 0.06, "train.batch_size": 32}}


def drafted(photos: int, optimizer: str, lr: float) -> Config:
    """The recipe that `kit new` wrote for so many photos, at the 64 px that they are stored at."""
    common = {"data.image_size": 64, "student.parameters": 60_000, "distill": TERMS, "train.epochs": 100}
    return replaced(even(), common | COUNTS[photos] | {"train.optimizer": optimizer, "train.lr": lr})


def few_photos() -> Study:
    arms = (
        Arm("2000-adamw", drafted(2_000, "adamw", 16e-3), "1,998 photos, AdamW at 16e-3"),
        Arm("2000-muon", drafted(2_000, "muon", 20e-3), "1,998 photos, Muon at 20e-3"),
        Arm("600-adamw", drafted(600, "adamw", 8e-3), "599 photos, AdamW at 8e-3"),
        Arm("600-muon", drafted(600, "muon", 10e-3), "599 photos, Muon at 10e-3", against="600-adamw"),
        Arm("600-muon-20e-3", drafted(600, "muon", 20e-3), "599 photos, Muon at 20e-3", against="600-adamw"),
    )
    question = (
        "Which optimiser should `kit new` propose to somebody with some hundred or thousand photos? Each arm is the recipe that it wrote "
        "until 1.6, with the student `even`, on part of the photos; accuracy is on the same part of the validation photos, 886 and 265."
    )
    remarks = (
        "**On all 4,432 validation photos**, of which `kit predict … --split validation` asked the same students, Muon at 20e-3 is a point "
        "ahead with either number of photos, and with each seed: 0.4479, 0.4465, 0.4528 against 0.4418, 0.4427, 0.4314; 0.3481, 0.3445, "
        "0.3432 against 0.3272, 0.3414, 0.3324. Of neither number alone is that told from chance (p = 0.13 and 0.09 by the same test); of "
        "all six pairs it is (paired t-test, p = 0.02). At 10e-3 it is not ahead (0.3181, 0.3463, 0.3303). So `kit new` proposes 20e-3 "
        "for both.",
        "Two arms ran at a time beside other work: minutes do not compare.",
    )
    return Study("few-photos", question, arms, "2000-adamw", reduce, f"40 epochs, {PHOTOS}", remarks)


def reduce(config: Config) -> Config:
    return kept_answers(replaced(config, {"train.epochs": 40}))
