"""`kit compress`: a student that is there already, brought under limits without training: pruned where it must be, then packed.

Fewer bits come before fewer channels: on the photos that `docs/packed-file.md` has figures of, 4 bits cost 0.3 points untrained, while a
pruned student that isn't trained again loses many. A run's `prune` section trains; this command is for when there is no time or no
teacher.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from kit import predict
from kit.compress.fold import fold
from kit.compress.lowrank import Ranks, factorise, ranks_in, ranks_within
from kit.compress.pack import unpack
from kit.compress.prune import Target
from kit.compress.recalibrate import BATCHES, begin_to_measure, recalibrate
from kit.config.choices import LostBy
from kit.config.competitions import read_limit
from kit.config.override import override
from kit.config.schema import Config
from kit.data.loader import CachedBatches
from kit.data.order import Order
from kit.device import choose_device
from kit.errors import KitError
from kit.models.cost import count_macs
from kit.models.library import refuse_unusable
from kit.models.look import classifier
from kit.models.students import count_parameters, widths_of
from kit.stages.known import Labelled, labelled_for
from kit.stages.packing import pack_student, packed_size, rounded_by
from kit.stages.photos import cached_batches
from kit.stages.prune import narrowed
from kit.stages.weights import find_weights, understand
from kit.target import refuse_overwriting

FEWEST_BITS = 4  # that are tried before channels are removed; fewer cost more than pruning does


@dataclass(frozen=True)
class Limits:
    """What the packed student may have at most; bits: exactly so many. None: as it comes."""

    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    bits: int | None = None


def parse_limits(words: list[str]) -> Limits:
    """`60000params`, `20MMACs`, `250kB`, `4bit`, any of them together.

    Raises:
        KitError: another word.
    """
    limits = Limits()
    for word in words:
        limit = read_limit(word)
        if limit is None:
            raise KitError(f"--to {word} is no limit: write a positive number and its unit, such as 60000params, 20MMACs, 250kB or 4bit.")
        what, most = limit
        if what == "bits" and limits.bits not in (None, most):
            raise KitError(f"--to {word}: {limits.bits} bits are asked for as well. Give one number of bits.")
        limits = replace(limits, **{what: min(most, getattr(limits, what) or most)})
    if limits.bits and not 2 <= limits.bits <= 8:
        raise KitError(f"--to {limits.bits}bit: weights are packed in 2 to 8 bits.")
    return limits


def compress(
    source: Path,
    to: list[str],
    out: Path,
    data: Path | None,
    cache: Path,
    name: str | None,
    assignments: list[str],
    by: LostBy = "channels",
) -> Iterator[str]:
    """Write a student.kit within the limits and yield what to say.

    Args:
        name: the student's, where its tensors alone don't tell (timm's).
        by: what parameters are lost by: "channels", or "rank" of the folded layers, which needs no photos.
        assignments: of the config, such as prune.criterion=magnitude.
    Raises:
        KitError: no such student, one that can't be brought under the limits, or `out` may not be written over.
    """
    limits, found = parse_limits(to), find_weights(source)
    refuse_overwriting(out, source)
    student, config = understand(found, name, assignments)
    outputs = classifier(student).out_features
    photos = labelled_for(source, found.classes or outputs, data, config, cache) if data else None
    classes = found.classes or (photos.classes if photos else tuple(map(str, range(outputs))))
    before = count_parameters(student)
    yield f"{found.origin}: {config.student.name}, {before:,} parameters"
    target = Target(limits.parameters, limits.macs, fill=True)
    if by == "rank":
        student = factorise(fold(student), ranks_to_fit(student, limits, config))
        refuse_unusable(config.student.name, student, config.data.image_size)  # some of timm's read the weights of a layer that is two now
    elif too_large(student, target, config):
        student = pruned(student, target, config, classes, photos)
    config = with_bits(config, limits.bits or config.pack.bits)
    if limits.bytes and by == "channels":
        student, config = fit_bytes(student, limits.bytes, bool(limits.bits), config, classes, photos)
    whole = rounded_by(student, config, partial(views_of, photos, config)) if photos else student
    if limits.bytes and whole is not student and packed_size(config, whole, classes) > limits.bytes:
        whole = student  # other codes took a few bytes more: rounded by the weights, as it was measured
    size = pack_student(out, config, whole, classes)
    packed = unpack(out)
    left = packed.parameters  # as a limit counts them, whatever folding took
    shape = f"ranks {ranks_in(student)}" if by == "rank" else f"widths {list(widths_of(student))}"
    kept = f"{left:,} of {before:,} parameters, {shape}" if left < before else "all parameters"
    yield f"{out}: {size:,} bytes at {config.pack.bits} bits, {kept}"
    if photos:
        scores = predict.scores(packed.student, photos.validation, config.data, views=config.predict)
        yield f"{predict.say(scores)} at {config.data.image_size} px{predict.seen(config)}, not trained again"


def ranks_to_fit(student: nn.Module, limits: Limits, config: Config) -> Ranks:
    if not limits.parameters or limits.macs or limits.bytes or config.pack.method == "course":
        raise KitError("--by rank meets a number of parameters in folded layers, and nothing else but bits: --to 40000params --to 6bit.")
    return ranks_within(student, limits.parameters)


def too_large(student: nn.Module, target: Target, config: Config) -> bool:
    over = target.parameters and count_parameters(student) > target.parameters
    return bool(over or (target.macs and count_macs(student, config.data.image_size).total() > target.macs))


def pruned(student: nn.Module, target: Target, config: Config, classes: tuple[str, ...], photos: Labelled | None) -> nn.Module:
    """A copy that keeps the target, its batch norms measured anew."""
    if photos is None:
        raise KitError(
            f"{config.student.name} has {count_parameters(student):,} parameters and must be pruned to fit into {target}: give --data, the "
            "photos that its batch norms are then measured with."
        )
    batches, order, device = views_of(photos, config)
    steps = min(BATCHES, order.steps_per_epoch)
    begin_to_measure(student.to(device), batches, steps)
    slimmer, _ = narrowed(config, student.cpu(), target, classes, batches=batches)
    recalibrate(slimmer.to(device), batches, steps)
    return slimmer.cpu()


def views_of(photos: Labelled, config: Config) -> tuple[CachedBatches, Order, torch.device]:
    """Training batches as a run has them, and the device that they are on."""
    order, device = Order(len(photos.training), config.train.batch_size, config.train.seed), choose_device().device
    return cached_batches(photos.training, order, config.data, config.data.augment, device), order, device


def fit_bytes(
    student: nn.Module, most: int, bits_are_set: bool, config: Config, classes: tuple[str, ...], photos: Labelled | None
) -> tuple[nn.Module, Config]:
    """As many bits as fit, and only then fewer channels."""
    fixed = bits_are_set or config.pack.method in ("course", "half")
    choices = [config.pack.bits] if fixed else range(config.pack.bits, min(FEWEST_BITS, config.pack.bits) - 1, -1)
    for bits in choices:
        config = with_bits(config, bits)
        if packed_size(config, student, classes) <= most:
            return student, config
    room = most
    while (size := packed_size(config, slimmer := pruned(student, Target(bytes=room), config, classes, photos), classes)) > most:
        room -= size - most  # batch norms that are measured anew have other codes, of a few bytes more
    return slimmer, config


def with_bits(config: Config, bits: int) -> Config:
    return override(config, [f"pack.bits={bits}"])
