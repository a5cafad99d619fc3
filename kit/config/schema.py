"""What a run is: one frozen value, checked by type and by meaning when it is built.

The config travels inside checkpoints and packed files, so it holds no path and no clock: where photos lie, where results go and
how long a session lasts belong to the command. `digest` leaves out what may change between two sessions of one run.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from kit.config import ramps
from kit.config.fields import Count, Positive, Section, Share, Spread, Weight
from kit.config.terms import Term

SPARSITY = 1e-4  # weight of Σ|γ| where channels are ranked by it (Liu et al. 2017)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Augment(Section):
    """How a training view is drawn, in this order: crop, flips, rotation, second rotation, brightness, contrast, saturation; then, over
    pairs of views, mixup or CutMix, which mix the labels too."""

    crop_scale: tuple[Share, Share] | None = None  # area share of a random resized crop; None: resize and centre crop
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width / height
    horizontal_flip: Share = 0.5
    vertical_flip: Share = 0.0
    rotate: float = Field(0.0, ge=0, le=180)  # degrees either way, corners black (RandomRotation)
    affine_rotate: float = Field(0.0, ge=0, le=180)  # a second rotation with its own corners (RandomAffine)
    brightness: Share = 0.0  # factor drawn from 1 ± brightness
    contrast: Share = 0.0
    saturation: Share = 0.0
    mixup: Weight = 0.0  # α of Beta(α, α), from which the share of the other photo is drawn; 0: off
    cutmix: Weight = 0.0  # the same for a rectangle of it; with both, each step takes one of them, by a coin

    @model_validator(mode="after")
    def ranges_begin_below(self) -> Self:
        for name in ("crop_scale", "crop_ratio"):
            if (pair := getattr(self, name)) and (pair[0] > pair[1] or not pair[0]):
                raise ValueError(f"{name} {pair} is no range: the lower end must be above zero and come first")
        return self

    @property
    def mixes(self) -> bool:
        return bool(self.mixup or self.cutmix)


class Data(Section):
    image_size: int = Field(224, ge=16)  # side of the networks' input, px
    crop_pct: float = Field(224 / 256, gt=0, le=1)  # centre crop's share of the short side, as timm names it
    cache_size: int | None = Field(None, ge=16)  # side of the cached squares; None: image_size / crop_pct
    # cache: decoded photos, resident on the device or, where they don't fit, streamed; stream: streamed in any case; decode: no training
    # cache, JPEGs are decoded and augmented anew each epoch
    feed: Literal["cache", "stream", "decode"] = "cache"
    augment: Augment = Augment()
    subset: float = Field(1.0, gt=0, le=1)  # stratified share of every split
    holdout: float = Field(0.2, gt=0, lt=1)  # of training, where there is no validation split
    unlabelled: bool = False  # train on the unlabelled/ split too: every term but the labels' own sees it
    skip_bad: bool = False  # leave photos that do not decode out of training and validation
    workers: int = Field(0, ge=0)  # decoding threads, or processes where feed is decode; 0: one per core
    mean: tuple[Share, Share, Share] = IMAGENET_MEAN  # of pixels from 0 to 1
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD

    @property
    def resize_side(self) -> int:
        """What the short side is resized to before the centre crop."""
        return round(self.image_size / self.crop_pct)

    @property
    def cache_side(self) -> int:
        return self.cache_size or self.resize_side


class Train(Section):
    epochs: Count
    batch_size: int = Field(128, ge=2)
    optimizer: Literal["adam", "adamw", "sgd", "muon"] = "adamw"
    lr: Positive = 1e-3
    weight_decay: Weight = 0.05
    decay_everything: bool = False  # also biases and BN, as torch's optimisers do by default
    schedule: Literal["constant", "cosine", "linear", "wsd", "one_cycle", "step"] = "cosine"
    warmup_epochs: Weight = 0
    cooldown: Share = 0.2  # last share of the plan, in which the rate of "wsd" falls to zero
    drops: tuple[Share, ...] = ()  # shares of the plan after which the rate is multiplied by 0.1 ("step")
    clip_norm: Positive | None = None
    sam_rho: Positive | None = None  # sharpness-aware: the gradient is taken this far uphill; a step costs two
    ema_decay: float | None = Field(None, gt=0, lt=1)
    swa_from: float | None = Field(None, ge=0, lt=1)  # share of the plan after which the weights of every epoch's end are averaged
    recalibrate: int = Field(0, ge=0)  # batches that batch norm of the best weights is measured on anew, at the plan's end
    balanced: bool = False  # every class as often as any other
    final_fit: bool = False  # on training and validation photos, nothing selected: the last weights are deployed
    patience: int | None = Field(None, ge=1)  # epochs without a better validation accuracy before the plan ends
    seed: int = 20220013
    save_seconds: Weight = 60  # between checkpoints
    compile: bool | None = None  # losses and gradients by torch.compile: other last bits; None: on a GPU, where the plan is long
    graph: bool | None = None  # on a GPU: a step's gradients recorded as a CUDA graph; None: where that is faster

    @model_validator(mode="after")
    def fields_fit_together(self) -> Self:
        if (self.schedule == "step") != bool(self.drops):
            raise ValueError("schedule 'step' and train.drops belong together: set both or neither")
        if self.schedule != "wsd" and self.cooldown != type(self).model_fields["cooldown"].default:
            raise ValueError("train.cooldown is of schedule 'wsd' alone: set train.schedule=wsd, or leave it out")
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError("schedule 'one_cycle' warms up for three tenths of the plan itself: leave train.warmup_epochs at 0")
        if self.final_fit and self.patience:
            raise ValueError("train.final_fit looks at no validation accuracy, train.patience waits for one: set train.patience=null")
        if self.ema_decay and self.swa_from is not None:
            raise ValueError("train.ema_decay and train.swa_from are two averages of the weights: set one of them to null")
        return self


class Teacher(Section):
    arch: Literal["torchvision/resnet18", "timm/resnet18"] = "torchvision/resnet18"
    expected_accuracy: Share | None = None  # on validation; a teacher a point below it stops the run
    image_size: int | None = Field(None, ge=16)  # side at which it sees the views, px; None: the student's
    flip: bool = False  # logits are the mean of the view's and its mirror image's
    store: Literal["float16", "float32"] | None = None  # its answers of every step are kept, so rounded, for later runs
    augment: Augment = Augment(crop_scale=(0.35, 1.0))
    train: Train = Train(epochs=30, lr=1e-3, warmup_epochs=1)  # used only when no teacher file is found


class Student(Section):
    name: str  # of the table (`kit students`), or timm/NAME
    widths: tuple[Count, ...] = ()  # of its convolutions in order; empty: the table's
    parameters: Count | None = None  # widen or narrow it, in these proportions, to as many as this; None: as it is


class Prune(Section):
    """Which channels go (compress/prune.py), in how many steps, and what is trained after. The defaults are slimming at once (Liu et al.
    2017), fine-tuned with the run's own objective. A limit of the competition is kept in any case."""

    criterion: Literal["slimming", "magnitude", "taylor", "random"] = "slimming"
    scope: Literal["global", "layer"] = "global"  # one ranking over the network, or an equal share of every layer
    keep: float = Field(0.5, gt=0, le=1)  # share of the parameters that may stay, where none of the next three is given; 1: all
    parameters: Count | None = None  # that may stay
    macs: Count | None = None  # of one photo, that may stay
    bytes: Count | None = None  # of student.kit
    multiple: Count = 1  # widths are rounded up to one of it
    at_least: Count = 1  # channels of every layer that stay; a tenth does in any case
    steps: Count = 1  # from the whole student to the target, the same share each time, fine-tuned after each
    restart: bool = False  # every step begins from the student as it was distilled, with a growing share
    absorb: bool = False  # what a channel whose γ is zero still gives goes into the next bias, where that is exact
    scratch: bool = False  # the control: the pruned architecture gets new weights
    gamma_penalty: Weight | None = None  # of Σ|γ| in the loss while distilling; None: 1e-4 for slimming, which ranks by γ, else 0
    finetune_epochs: int = Field(10, ge=0)  # after each step; 0: none
    finetune_lr: Positive | None = None  # None: half of train.lr

    @model_validator(mode="after")
    def fields_fit_together(self) -> Self:
        if self.restart and self.steps == 1:
            raise ValueError("prune.restart says where later steps begin: set prune.steps as well")
        if self.scratch and not self.finetune_epochs:
            raise ValueError("prune.scratch gives new weights, which prune.finetune_epochs=0 leaves untrained: set some epochs")
        return self


class LowRank(Section):
    """Dense layers as products of thinner ones, batch norm folded (compress/lowrank.py), after all pruning; trained under the run's own
    objective. A limit of the competition is kept in any case."""

    energy: Share = 0.95  # least share of Σσ² that every matrix keeps
    rank: Count | None = None  # of every matrix, instead of `energy`
    parameters: Count | None = None  # that may stay: the largest share with which they do is taken instead of `energy`
    train_epochs: int = Field(10, ge=0)  # 0: none
    train_lr: Positive | None = None  # None: half of train.lr

    @model_validator(mode="after")
    def one_of_both(self) -> Self:
        if self.rank and self.parameters:
            raise ValueError("lowrank.rank and lowrank.parameters each decide the ranks: leave one of them out")
        return self


class Pack(Section):
    """How student.kit stores the weights: codes of `bits` bits with floats per output channel, batch norm folded (compress/quantize.py).
    `course` is HW7's own 8 bits per tensor, nothing folded; `half` is float16."""

    bits: int = Field(8, ge=2, le=16)
    method: Literal["affine", "symmetric", "codebook", "course", "half"] = "affine"
    calibration: int | None = Field(None, ge=0)  # training photos that rounding looks at; null: 512, 0: none

    @property
    def even(self) -> bool:
        """Whether the codes of a channel are multiples of one step."""
        return self.method in ("affine", "symmetric")

    @model_validator(mode="after")
    def fields_fit_together(self) -> Self:
        if self.method == "course" and self.bits != 8:
            raise ValueError("pack.method 'course' is 8 bits and nothing else: leave pack.bits, or choose another method")
        if (self.bits == 16) != (self.method == "half") or 8 < self.bits < 16:
            raise ValueError(f"pack.bits {self.bits} and pack.method {self.method!r}: 16 bits are 'half' alone, the others have 2 to 8")
        if self.calibration and not self.even:
            raise ValueError(f"pack.calibration rounds to multiples of a step, which pack.method {self.method!r} has none of: leave it out")
        return self


class Quantize(Section):
    """Training with fake quantization at `pack.bits`, under the run's own objective, after all other training (compress/lsq.py)."""

    train_epochs: int = Field(0, ge=0)  # 0: the weights are rounded when they are packed, and no sooner
    train_lr: float = Field(2e-4, gt=0)


class Predict(Section):
    flip: bool = False  # average the logits of the photo and its mirror image
    crops: Literal[1, 5] = 1  # 5: average the logits of the centre and the four corners
    logit_adjustment: Weight = 0.0  # τ of log prior taken from the logits: in favour of the rare classes


class Config(Section):
    recipe: str
    competition: str  # whose photos, classes and CSV
    limit: str | None = None  # the competition whose limit the student keeps, where that is another one
    trial: bool | None = None  # what `tiny` makes, which is not handed in; None and not False, or old digests would be others
    data: Data = Data()
    teacher: Teacher = Teacher()
    student: Student
    distill: Annotated[tuple[Term, ...], Field(min_length=1)]
    train: Train
    prune: Prune | None = None
    lowrank: LowRank | None = None
    quantize: Quantize = Quantize()
    pack: Pack = Pack()
    predict: Predict = Predict()

    @property
    def whose_limit(self) -> str:
        """The competition whose limit the student keeps."""
        return self.limit or self.competition

    @property
    def tried_with(self) -> str:
        """The options by which a run is a try that is not handed in; empty where it is none."""
        return " and ".join(option for option, given in (("--subset", self.data.subset < 1), ("--tiny", self.trial)) if given)

    @property
    def teacher_side(self) -> int:
        """Side at which the teacher sees a view, px."""
        return self.teacher.image_size or self.data.image_size

    @property
    def taught(self) -> bool:
        """Whether a term looks at more than labels: at a teacher."""
        return any(term.loss != "ce" for term in self.distill)

    @property
    def finetune_lr(self) -> float:
        """Learning rate of what is trained after pruning, and of thinner layers by `lowrank_lr`."""
        return (self.prune and self.prune.finetune_lr) or self.train.lr / 2

    @property
    def gamma_penalty(self) -> float:
        """Weight of Σ|γ| in the loss while distilling."""
        if not self.prune:
            return 0.0
        own = SPARSITY if self.prune.criterion == "slimming" else 0.0
        return own if self.prune.gamma_penalty is None else self.prune.gamma_penalty

    @property
    def lowrank_lr(self) -> float:
        return (self.lowrank and self.lowrank.train_lr) or self.train.lr / 2

    @field_validator("recipe")
    @classmethod
    def a_recipe_names_a_folder(cls, name: str) -> str:
        if not name.strip("/. ") or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} is to name a folder of runs/ and one of submissions/: write a word, or cats/dogs")
        return name

    @field_validator("limit", mode="before")
    @classmethod
    def a_limit_has_a_unit(cls, limit: object) -> object:
        if isinstance(limit, int | float):
            raise ValueError(f"a limit has a unit, such as {limit}params or 250kB")
        return limit

    @model_validator(mode="after")
    def sections_fit_together(self) -> Self:
        if self.quantize.train_epochs and not self.pack.even:
            raise ValueError(f"quantize.train_epochs learns steps, which pack.method {self.pack.method!r} has none of: choose affine")
        if self.lowrank and self.pack.method == "course":
            raise ValueError("pack.method 'course' stores a student as it was built, and lowrank replaces its layers: choose affine")
        if self.teacher.store and not self.taught:
            raise ValueError("teacher.store keeps a teacher's answers, and no term of distill looks at a teacher: leave it out")
        if self.teacher.train.final_fit and not self.train.final_fit:
            raise ValueError(
                "teacher.train.final_fit adds no photos by itself: set train.final_fit=true, which the teacher follows, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def fixed_labels_stand_alone(self) -> Self:
        if not any(term.loss == "kd-fixed" for term in self.distill):
            return self
        if others := [term.loss for term in self.distill if term.loss not in ("kd-fixed", "ce")]:
            raise ValueError(f"kd-fixed asks the teacher once, of plain views, and {others[0]!r} of every view: leave one of them out")
        if self.data.augment.mixes or self.data.feed == "decode" or self.teacher.store:
            raise ValueError(
                "kd-fixed has a label for each cached photo: leave out mixup, CutMix, data.feed='decode' and teacher.store, or take kd"
            )
        return self

    @model_validator(mode="after")
    def some_term_always_counts(self) -> Self:
        terms = [term for term in self.distill if term.weight]
        if not terms:
            raise ValueError("the weights of all terms of distill are zero, and nothing is learnt: give one of them a weight")
        if off := frozenset.intersection(*(ramps.off_places(term.ramp) for term in terms)):
            raise ValueError(f"the ramps of all terms of distill are zero at p = {min(off):g}, and nothing is learnt there: change one")
        later = [(f"{name}.{field}", getattr(section, field)) for name, field in LATER if (section := getattr(self, name))]
        for name, epochs in [("train.epochs", self.train.epochs), *later]:
            if epochs and not any(ramps.factor(term.ramp, epoch / epochs) for epoch in range(epochs) for term in terms):
                raise ValueError(f"the ramps of all terms of distill are zero in each of {name}={epochs}: change one, or give more epochs")
        return self

    @model_validator(mode="after")
    def terms_fit_the_run(self) -> Self:
        if self.prune and any(term.loss == "simkd" for term in self.distill):
            raise ValueError("simkd keeps the teacher's classifier, and pruning would take inputs from it: leave out simkd or prune")
        if self.data.unlabelled and not any(term.weight for term in self.distill if term.loss != "ce"):
            raise ValueError("data.unlabelled brings photos without labels, and distill has no term that needs none: add one, such as kd")
        return self

    def tiny(self) -> Self:
        """The same recipe, every stage, for a CPU and a few dozen photos: two epochs of small batches at 32 px."""
        value = self.shortened(2).model_dump() | {"recipe": f"{self.recipe}-tiny", "trial": True}  # it must not pass for the recipe's
        few = {"batch_size": 16, "warmup_epochs": 0}
        value["data"] |= {"image_size": 32, "cache_size": 32}
        value["train"] |= few
        value["teacher"]["train"] |= few
        return type(self).model_validate(value)

    def shortened(self, epochs: int) -> Self:
        """The same run with so many epochs of the teacher and of distillation, and one of each later training that it has."""
        value = self.model_dump()
        if not any(term.weight * ramps.factor(term.ramp, 0) for term in self.distill):  # a plan of one epoch knows no other p
            value["distill"] = [term | {"ramp": "constant"} for term in value["distill"]]
        value["train"]["epochs"] = value["teacher"]["train"]["epochs"] = epochs
        for section, field in LATER:
            if value[section]:
                value[section][field] = min(1, value[section][field])
        return type(self).model_validate(value)

    def settled(self) -> Self:
        """The same run, with all that changes no weight at its default and rates that follow from others said: what files carry that must
        repeat bit for bit."""
        value = self.model_dump()
        for name in HARMLESS:
            *parents, last = name.split(".")
            section, place = self, value
            for parent in parents:
                section, place = getattr(section, parent), place[parent]
            place[last] = type(section).model_fields[last].default
        if self.data.feed == "stream":
            value["data"]["feed"] = "cache"  # where the same pixels come from
        if self.prune:
            value["prune"] |= {"finetune_lr": self.finetune_lr, "gamma_penalty": self.gamma_penalty}
        if self.lowrank:
            value["lowrank"]["train_lr"] = self.lowrank_lr
        return type(self).model_validate(value)

    def digest(self) -> str:
        """Of all that decides the result; sixteen hex digits. What is None counts as not there, so that a later version's new section
        leaves the digests of before."""
        value = self.settled().model_dump(mode="json", exclude_none=True)
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


LATER = (("prune", "finetune_epochs"), ("lowrank", "train_epochs"), ("quantize", "train_epochs"))  # trainings after distillation
# What a session may bring that another did not: it changes no weight.
PACE = ("train.save_seconds", "teacher.train.save_seconds", "train.graph", "teacher.train.graph")
HARMLESS = ("trial", "teacher.expected_accuracy", "data.workers", *PACE)
