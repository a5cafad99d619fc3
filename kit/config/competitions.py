"""The competitions: what a deployed student may hold and what their CSV looks like.

Sources: the course pages and Kaggle's competition pages of NTU ML 2020 to 2023. Another competition is another entry. A limit alone
needs none: `60000params`, `250kB` and `60000params+250kB` are names of what they say.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from kit.errors import KitError, nearest

FOOD11 = (
    "Bread", "Dairy product", "Dessert", "Egg", "Fried food", "Meat", "Noodles/Pasta", "Rice", "Seafood", "Soup", "Vegetable/Fruit",
)  # fmt: skip


@dataclass(frozen=True)
class Competition:
    """Limits are of the deployed student; None means that there is none."""

    title: str
    classes: tuple[str, ...] | None = None  # None: whatever the data set has
    max_parameters: int | None = None
    max_bytes: int | None = None
    rows: int | None = None  # of the evaluation set
    padded_ids: bool = True  # ids are the photos' names, 0000…; False: 0, 1, …
    columns: tuple[str, str] = ("Id", "Category")
    slug: str | None = None  # on Kaggle
    teacher_file: str = "resnet18_teacher.ckpt"


COMPETITIONS = {
    "hw13-2023": Competition("NTU ML2023 HW13 (Food-11)", FOOD11, max_parameters=60_000, rows=2_218, slug="ml2023spring-hw13"),
    "hw13-2022": Competition("NTU ML2022 HW13 (Food-11)", FOOD11, max_parameters=100_000, rows=3_347, slug="ml2022spring-hw13"),
    "hw13-2021": Competition(
        "NTU ML2021 HW13 (Food-11)", FOOD11, max_parameters=100_000, rows=3_347, padded_ids=False, teacher_file="teacher_net.ckpt"
    ),
    "hw7-2020": Competition(
        "NTU ML2020 HW7 (Food-11)",
        FOOD11,
        max_bytes=300_000,
        rows=3_347,
        padded_ids=False,
        slug="ml2020spring-hw7",
        teacher_file="teacher_resnet18.bin",
    ),
    "any": Competition("any folder of photos"),
}
ON_KAGGLE = [name for name, rules in COMPETITIONS.items() if rules.slug]


UNITS = {
    "params": ("parameters", 1),
    "MMACs": ("macs", 10**6),
    "B": ("bytes", 1),
    "kB": ("bytes", 1_000),
    "MB": ("bytes", 10**6),
    "bit": ("bits", 1),
}
LIMIT = re.compile(rf"(?P<number>\d+(_\d+)*(\.\d+)?)(?P<unit>{'|'.join(UNITS)})")


def read_limit(word: str) -> tuple[str, int] | None:
    """`60000params` as ("parameters", 60000), `1.5kB` as ("bytes", 1500); None where it isn't one, or comes to no whole number."""
    match = LIMIT.fullmatch(word)
    if not match:
        return None
    what, size = UNITS[match["unit"]]
    most = Decimal(match["number"]) * size
    return (what, int(most)) if most == int(most) > 0 else None


def competition(name: str) -> Competition:
    """The competition of that name, or one of no other rule than the limit that the name says.

    Raises:
        KitError: it is neither; with the nearest names.
    """
    if name in COMPETITIONS:
        return COMPETITIONS[name]
    limits = [read_limit(part) for part in name.split("+")]
    if all(limit and limit[0] in ("parameters", "bytes") for limit in limits):
        most = dict(limit for limit in limits if limit)
        return Competition(f"a limit of {name}", max_parameters=most.get("parameters"), max_bytes=most.get("bytes"))
    raise KitError(f"There is no competition {name!r}. Nearest: {nearest(name, COMPETITIONS)}; or a limit, such as 60000params or 250kB.")


def check_limits(name: str, parameters: int, size: int | None = None) -> list[str]:
    """What the deployed student breaks, in words; empty when it may be handed in.

    Args:
        parameters: `numel` of all that the student holds as a parameter, frozen or not; buffers don't count.
        size: of the packed file, bytes.
    """
    rules = competition(name)
    broken = []
    if rules.max_parameters and parameters > rules.max_parameters:
        broken.append(f"{parameters:,} parameters are over {name}'s limit of {rules.max_parameters:,}")
    if rules.max_bytes and size and size > rules.max_bytes:
        broken.append(f"{size:,} bytes are over {name}'s limit of {rules.max_bytes:,}")
    return broken
