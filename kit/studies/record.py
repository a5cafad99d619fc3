"""Whether the recipe that came of the screens holds: forty epochs and three seeds, against its opponents."""

from kit.config.recipes import boss, medium, record
from kit.studies.screens import PHOTOS, under
from kit.studies.study import Arm, Study, proving_ground, replaced


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
