"""The terms that an objective is made of, as a recipe names and weighs them. docs/methods.md has each with its paper and an example."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kit.config import ramps
from kit.config.fields import Count, Positive, Section, Share, Weight

Ramp = Annotated[str | ramps.Points, AfterValidator(ramps.check)]  # what a term's weight is multiplied by; p = epoch / epochs


class Weighted(Section):
    """A term and its share in the sum: weight × ramp(p)."""

    weight: Weight = 1.0
    ramp: Ramp = "constant"


class CE(Weighted):
    """Cross entropy with the labels."""

    loss: Literal["ce"] = "ce"
    smoothing: Share = 0.0


class KD(Weighted):
    """T² · KL(teacher ‖ student), both softened by T (Hinton et al. 2015)."""

    loss: Literal["kd"] = "kd"
    temperature: Positive = 1.0
    standardise: bool = False  # both networks' logits first (Sun et al. 2024)


class FixedKD(Weighted):
    """KD from soft labels that were computed once, of each photo's plain view, whatever view the student sees: seed 000's mistake, and the
    control for Beyer et al. 2021. It is then the only term that looks at a teacher."""

    loss: Literal["kd-fixed"] = "kd-fixed"
    temperature: Positive = 1.0


class L2(Weighted):
    """The logits themselves, regressed (Ba and Caruana 2014)."""

    loss: Literal["l2"] = "l2"


class InParts(Weighted):
    """A term that is a sum of parts of their own weights."""

    parts: ClassVar[tuple[str, ...]]

    @model_validator(mode="after")
    def some_part_counts(self) -> Self:
        if not any(getattr(self, part) for part in self.parts):
            raise ValueError(f"{' and '.join(self.parts)} are both 0, and nothing of the term is left: give one of them a weight")
        return self


class DKD(InParts):
    """KD in two parts of their own weights: the target class against the rest, and the rest among themselves (Zhao et al. 2022)."""

    loss: Literal["dkd"] = "dkd"
    temperature: Positive = 4.0
    alpha: Weight = 1.0
    beta: Weight = 8.0
    parts: ClassVar = ("alpha", "beta")
    standardise: bool = False


class DIST(InParts):
    """Correlation instead of divergence, by rows and by columns (Huang et al. 2022)."""

    loss: Literal["dist"] = "dist"
    temperature: Positive = 4.0
    beta: Weight = 1.0  # of the relation between classes, in each photo
    gamma: Weight = 1.0  # of the relation between photos, in each class
    parts: ClassVar = ("beta", "gamma")


class MLKD(Weighted):
    """Predictions aligned at several temperatures, photo by photo, within the batch and between classes (Jin et al. 2023)."""

    loss: Literal["mlkd"] = "mlkd"
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (2.0, 3.0, 4.0, 5.0, 6.0)
    standardise: bool = False


class OfMaps(Weighted):
    """A term that sees feature maps, of the modules that are named: `blocks.0` of the student, `layer1` of the teacher."""

    student: str
    teacher: str


class Hint(OfMaps):
    """A student's feature map pulled to a teacher's (FitNets, Romero et al. 2015)."""

    loss: Literal["hint"] = "hint"
    distance: Literal["smooth_l1", "mse"] = "smooth_l1"


class AT(OfMaps):
    """Where each network looks (attention transfer, Zagoruyko and Komodakis 2017)."""

    loss: Literal["at"] = "at"


class SP(OfMaps):
    """Which photos of a batch are alike (similarity-preserving, Tung and Mori 2019)."""

    loss: Literal["sp"] = "sp"


class RKD(OfMaps, InParts):
    """Distances and angles between the photos of a batch (relational, Park et al. 2019)."""

    loss: Literal["rkd"] = "rkd"
    distance: Weight = 25.0
    angle: Weight = 50.0
    parts: ClassVar = ("distance", "angle")


class CRD(OfMaps):
    """One photo's two embeddings told from those of the batch's other photos (contrastive, Tian et al. 2020)."""

    loss: Literal["crd"] = "crd"
    temperature: Positive = 0.07
    width: Count = 128  # of the embeddings


class SimKD(OfMaps):
    """The student's last map pulled to the teacher's, whose classifier the student keeps, frozen (Chen et al. 2022)."""

    loss: Literal["simkd"] = "simkd"


class OfStages(Weighted):
    """A term over several maps of each network, from the shallowest to the deepest."""

    student: Annotated[tuple[str, ...], Field(min_length=1)]
    teacher: Annotated[tuple[str, ...], Field(min_length=1)]


class Review(OfStages):
    """Each stage of the teacher from the student's own and all deeper ones, fused (ReviewKD, Chen et al. 2021)."""

    loss: Literal["review"] = "review"
    width: Count = 64  # of the fusion

    @model_validator(mode="after")
    def stages_pair_up(self) -> Self:
        if len(self.student) != len(self.teacher):
            raise ValueError(f"review pairs stages: {len(self.student)} of the student and {len(self.teacher)} of the teacher are named")
        return self


class AFD(OfStages):
    """Which stage of the student follows which of the teacher's is learnt, by attention (Ji et al. 2021)."""

    loss: Literal["afd"] = "afd"
    width: Count = 64  # of queries and keys


Term = Annotated[
    CE | KD | FixedKD | L2 | DKD | DIST | MLKD | Hint | AT | SP | RKD | CRD | SimKD | Review | AFD, Field(discriminator="loss")
]
