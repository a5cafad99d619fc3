"""Whether the recipe that came of the screens holds, and which of its parts it needs.

`record` asks it for forty epochs with three seeds against its opponents; `record-ablation` takes each part away in turn, for ten. Muon and
then gates came last: what had been run before stays as it was, under AdamW, and without gates.
"""

from kit.config.recipes import BOSS, boss, medium, record
from kit.config.schema import Config
from kit.config.terms import CE, KD
from kit.studies.screens import PHOTOS, dump, hints
from kit.studies.study import Arm, Changes, Study, kept_answers, proving_ground, replaced

PAGE = "record.md"
MUON: Changes = {"train.optimizer": "muon", "train.lr": 20e-3}


def even() -> Config:
    """The recipe until 1.8, on a network without gates."""
    return replaced(record(), {"student.name": "even"})


def adamw() -> Config:
    """The recipe before Muon."""
    return replaced(even(), {"train.optimizer": "adamw", "train.lr": 16e-3})


def stored(changes: Changes) -> Config:
    """The recipe before Muon with something replaced, the teacher's answers kept for the other arms that draw the same views: logits
    rounded to float16."""
    return replaced(adamw(), {"teacher.store": "float16"} | changes)


def finals() -> Study:
    """Three seeds, forty epochs."""
    arms = (
        Arm("boss", boss(), "the published recipe, 99,891 parameters"),
        Arm("course", medium(), "the course's student, KD with T = 20, 59,723 parameters"),
        Arm("record", kept_answers(record()), "the recipe"),
        Arm("fine-gated", replaced(kept_answers(record()), {"student.name": "fine-gated"}), "the recipe on fine-gated, of finer maps"),
        Arm("even", kept_answers(even()), "the recipe on even, without gates: until 1.8"),
        Arm("fine", replaced(kept_answers(even()), {"student.name": "fine"}), "the recipe on fine, of finer maps and without gates"),
        Arm("adamw", stored({}), "the recipe on even under AdamW, at 16e-3: until 1.2"),
        Arm("boss-network", stored({"student.name": "boss", "limit": "hw13-2022"}), "the published network, trained as adamw is"),
    )
    question = "Does `record` (at most 60,000 parameters) beat the published recipe of 99,891, and by how much more than seeds can explain?"
    remark = "Under Muon (`record`) arms ran two at a time beside other work: minutes do not compare."
    return Study("record", question, arms, "boss", proving_ground(40), f"96 px, 40 epochs, {PHOTOS}", remarks=(remark,), page=PAGE)


def long() -> Study:
    """The published length, for a GPU: in the finals the teacher's answers are read from the disk, which a GPU would wait for."""
    arms = (
        Arm("boss", boss(), "the published recipe, 99,891 parameters"),
        Arm("record", record(), "the recipe"),
        Arm("adamw", adamw(), "the recipe before Muon"),
    )
    question = "Is the recipe still ahead of the published one when both are trained for as long as that one was?"
    remark = "Both began on an H100, which they shared, and ended on the CPU that the journal names: minutes do not compare."
    return Study("record-long", question, arms, "boss", proving_ground(600), f"96 px, 600 epochs, {PHOTOS}", remarks=(remark,), page=PAGE)


def sides() -> Study:
    """Ten epochs at other sides. Photos of 64 px show no more at 192: what grows is the maps. The teacher sees the same at all of them, but
    in one arm."""
    networks = (
        ("boss", boss(), "the published recipe, 99,891 parameters"),
        (
            "network",
            replaced(kept_answers(even()), {"student.name": "boss", "limit": "hw13-2022"}),
            "the published network, trained as the recipe",
        ),
        ("record", kept_answers(even()), "the recipe until 1.8"),
    )
    arms = [
        Arm(f"{name}-{side}", at(side, config), f"{says}, at {side} px", against=f"boss-{side}" if name != "boss" else "")
        for side in (96, 192)
        for name, config, says in networks
    ]
    arms += [
        Arm("small-96", at(64, kept_answers(even())), "the recipe until 1.8 at 64 px", against="record-96"),
        Arm(
            "small-64",
            at(64, kept_answers(even()), 64),
            "the recipe until 1.8 at 64 px, and its teacher sees 64 px too",
            against="small-96",
        ),
    ]
    question = (
        "How much of the distance between `record` and the published recipe is that of maps which are too small for the published network "
        "at 96 px? Its last ones are 3 px high there, and 6 at 192. And what does it cost a student of another side to show its teacher, "
        "which learnt at 96 px, that side?"
    )

    def reduced(config: Config) -> Config:
        return replaced(config, {"train.epochs": 10, "train.patience": None})

    return Study("record-sides", question, tuple(arms), "boss-96", reduced, f"10 epochs, {PHOTOS}", page=PAGE)


def at(side: int, config: Config, teacher: int = 96) -> Config:
    return replaced(config, {"data.image_size": side, "teacher.image_size": teacher})


def ablation() -> Study:
    """Ten epochs. What was left out of the recipe is put in, too: labels, hints, mixup."""
    kd, views = KD(temperature=4), adamw().data.augment.model_dump()
    arms = (
        Arm("adamw", stored({}), "the recipe before Muon"),
        Arm("muon", stored(MUON), "Muon for AdamW, at 20e-3: the recipe until 1.8"),
        Arm("gated", stored(MUON | {"student.name": "gated"}), "Muon, and channels gated by their own means: the recipe"),
        Arm("fine", stored(MUON | {"student.name": "fine"}), "Muon, and the network fine, whose maps are twice as high and wide"),
        Arm("fine-gated", stored(MUON | {"student.name": "fine-gated"}), "Muon, the network fine, and its channels gated"),
        Arm("no-teacher", replaced(adamw(), {"distill": dump([CE()])}), "labels alone"),
        Arm("no-temperature", stored({"distill": dump([KD(temperature=1)])}), "T = 1"),
        Arm("labels", stored({"distill": dump([kd, CE(weight=0.1)])}), "a tenth of cross entropy put in"),
        Arm("hints", replaced(adamw(), {"distill": dump([kd, *hints("even")])}), "FitNets' hints from three stages put in"),
        Arm("boss-network", stored({"student.name": "boss", "limit": "hw13-2022"}), "the published network, 99,891 parameters"),
        Arm("large-batches", replaced(adamw(), {"train.batch_size": 128}), "batches of 128"),
        Arm("small-rate", stored({"train.lr": 4e-3}), "a quarter of the rate"),
        Arm("no-warmup", stored({"train.warmup_epochs": 0}), "the whole rate at once"),
        Arm("no-decay", stored({"train.weight_decay": 0.0}), "no weight decay"),
        Arm("no-clipping", stored({"train.clip_norm": None}), "gradients of any length"),
        Arm("no-average", stored({"train.ema_decay": None}), "no average of the weights"),
        Arm("boss-views", replaced(adamw(), {"data.augment": BOSS.model_dump()}), "boss's views: rotations and vertical flips"),
        Arm("no-colour", replaced(adamw(), {"data.augment": views | {"brightness": 0.0}}), "photos as bright as they are"),
        Arm(
            "mixup", replaced(adamw(), {"data.augment": views | {"mixup": 0.2}}), "mixup, α = 0.2, put in; the teacher sees the mixed view"
        ),
        Arm("cutmix", replaced(adamw(), {"data.augment": views | {"cutmix": 1.0}}), "CutMix put in, likewise"),
        Arm("one-crop", stored({"predict.crops": 1}), "predicted from the centre and its mirror image", begins="adamw"),
        Arm("one-view", stored({"predict": {"crops": 1, "flip": False}}), "predicted from the centre alone", begins="adamw"),
    )
    question = "What does each part of `record` bring? Each arm is the recipe before Muon with one part taken away or put in."
    return Study("record-ablation", question, arms, "adamw", proving_ground(10), f"96 px, 10 epochs, {PHOTOS}", page=PAGE)
