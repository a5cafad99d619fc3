"""Whether the recipe that came of the screens holds: forty epochs and three seeds, against its opponents."""

from kit.config.recipes import boss, medium, record
from kit.config.schema import Config
from kit.studies.screens import PHOTOS
from kit.studies.study import Arm, Changes, Study, proving_ground, replaced


def stored(changes: Changes) -> Config:
    """The recipe with something replaced, the teacher's answers kept for the other arms that draw the same views: logits rounded to
    float16, which is all that differs from the recipe itself."""
    return replaced(record(), {"teacher.store": "float16"} | changes)


def finals() -> Study:
    """Three seeds, forty epochs."""
    arms = (
        Arm("boss", boss(), "the published recipe, 99,891 parameters"),
        Arm("course", medium(), "the course's student, KD with T = 20, 59,723 parameters"),
        Arm("record", stored({}), "the recipe"),
        Arm("boss-network", stored({"student.name": "boss", "limit": "hw13-2022"}), "the published network under record's training"),
    )
    question = "Does `record` (at most 60,000 parameters) beat the published recipe of 99,891, and by how much more than seeds can explain?"
    return Study("record", question, arms, "boss", proving_ground(40), f"96 px, 40 epochs, {PHOTOS}")
