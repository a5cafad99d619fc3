"""What the three studies of HW7 share: the course's recipe under other students and losses, and how it is reduced."""

from kit.config.recipes import KNOWN, hw7
from kit.config.schema import IMAGENET_MEAN, IMAGENET_STD, Config
from kit.config.terms import CE, KD, Term
from kit.studies.study import Changes, replaced

LABELS = (CE(),)
DISTILLED = (KD(weight=0.5, temperature=20), CE(weight=0.5))
SUBSET = 0.3
REDUCTION = f"96 px, {SUBSET:.0%} of the photos of Food-101 regrouped into Food-11's classes, views that their teacher knows"


def course(student: str, terms: tuple[Term, ...], **changes: object) -> Config:
    """HW7's recipe with another student and objective. changes: `section__field`, with values as `replaced` takes them."""
    fields: Changes = {name.replace("__", "."): value for name, value in changes.items()}
    return replaced(hw7(), {"student.name": student, "distill": [term.model_dump() for term in terms]} | fields)


def course_ground(config: Config, epochs: int, finetune_epochs: int = 1) -> Config:
    """HW7's views are crops of photos of 512 px in another normalisation than the regrouped photos' teacher knows: 96 px and its own
    instead. Views that a study has chosen stay."""
    views = KNOWN if config.data.augment == hw7().data.augment else config.data.augment
    data = {"image_size": 96, "crop_pct": 0.875, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "subset": SUBSET}
    shorter: Changes = {f"data.{name}": value for name, value in data.items()} | {"data.augment": views.model_dump()}
    shorter |= {"competition": "any", "train.epochs": epochs, "train.batch_size": 64}
    if config.prune:
        shorter["prune.finetune_epochs"] = min(config.prune.finetune_epochs, finetune_epochs)
    return replaced(config, shorter)
