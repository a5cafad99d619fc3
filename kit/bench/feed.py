"""`kit bench feed`: normalised batches of training views, by the kit's feeds and by what people use today."""

from collections.abc import Iterator
from pathlib import Path

import torch

from kit.augment.reference import SeededPipeline
from kit.augment.views import draw_views
from kit.bench import rivals
from kit.bench.clock import Way, counted, measure
from kit.bench.material import decoded, in_a_fresh_process, memory, training_photos, workers_of
from kit.bench.outcome import Outcome, rates
from kit.config.schema import Config
from kit.data.cache import Photos
from kit.data.loader import CachedBatches, DecodingBatches
from kit.data.order import Order
from kit.data.splits import Split
from kit.data.squares import as_tensor, gathered
from kit.device import Device, choose_device
from kit.rng import generator
from kit.stages.photos import cached_batches, to_input


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    split = training_photos(data, config)
    photos, workers = decoded(split, config, cache), workers_of(config)
    ways, where = [*kit_ways(config, split, photos, device.device), *rival_ways(config, split, device.device)], device.device
    rows = rates(measure(ways, rounds, where, seconds))
    batch, side = config.train.batch_size, config.data.image_size
    facts = {"cache": f"{photos.pixels.nbytes / 1e6:,.0f} MB, {len(photos):,} squares of {photos.pixels.shape[1]} px"}
    if where.type == "cpu":
        own, whole = in_a_fresh_process(peak_of_feed, config, split, cache)
        facts["memory of the mapped feed, in a process of its own"] = (
            f"{own:,.0f} MB above the process before, {whole:,.0f} MB with all that is mapped (torch and the cache)"
        )
    return Outcome("feed", f"Views of {side} px in batches of {batch}", "images/s", rivals.seed_name(workers), rows, facts)


def kit_ways(config: Config, split: Split, photos: Photos, device: torch.device) -> Iterator[Way]:
    data, augment, batch, workers = config.data, config.data.augment, config.train.batch_size, workers_of(config)
    order = Order(len(photos), batch, config.train.seed)
    kept = "resident" if device.type == "cuda" else "mapped"
    yield Way(f"kit, {kept}", "decoded squares, one warp", counted(kept_feed(config, photos, order, device)), batch)
    stream = data.model_copy(update={"feed": "stream"})
    streaming = lambda: counted(cached_batches(photos, order, stream, augment, device))()  # noqa: E731  anew for each round
    yield Way("kit, streamed", "the same squares, gathered ahead by threads", streaming, batch, warm=5)
    decoding = lambda: counted(DecodingBatches(split, order, SeededPipeline(data, augment), to_input(data), device, workers))()  # noqa: E731
    yield Way("kit, decoding", f"JPEGs anew each epoch, {workers} workers", decoding, batch, warm=2 * workers + 1, least=2 * workers)
    pixels, sizes = as_tensor(photos.pixels), torch.from_numpy(photos.sizes)

    def host(step: int) -> None:
        rows = order.rows(step)
        draw_views(sizes[rows], pixels.shape[1], generator(order.seed, "augment", step), data, augment)
        gathered(pixels, rows)

    yield Way("kit, the host's part", "order, draws and gathered squares: all that is left when a GPU warps", counted(host), batch)


def kept_feed(config: Config, photos: Photos, order: Order, device: torch.device) -> CachedBatches:
    """The feed that keeps the squares, whichever one the recipe takes."""
    return cached_batches(photos, order, config.data.model_copy(update={"feed": "cache"}), config.data.augment, device)


def rival_ways(config: Config, split: Split, device: torch.device) -> Iterator[Way]:
    data, augment, batch, workers = config.data, config.data.augment, config.train.batch_size, workers_of(config)

    def way(name: str, says: str, photos: rivals.Photos, number: int) -> Way:
        opened = lambda: rivals.loading(photos, batch, number, device)  # noqa: E731
        return Way(name, says, opened, batch, warm=2 * number + 1, least=max(2, 2 * number))

    for number in (0, workers):
        photos = rivals.Photos(split, rivals.torchvision_view(data, augment))
        yield way(rivals.seed_name(number), "PIL, torchvision's transforms, DataLoader", photos, number)
    photos = rivals.Photos(split, rivals.FromCV2(data, augment))
    yield way(f"albumentations, {workers} workers", "cv2, albumentations, DataLoader", photos, workers)


def peak_of_feed(config: Config, split: Split, cache: Path) -> tuple[float, float]:
    """MB of this process after an epoch: what the feed added without mapped files, and the peak with them."""
    where = choose_device().device
    photos = decoded(split, config, cache)
    before = memory("RssAnon")
    order = Order(len(photos), config.train.batch_size, config.train.seed)
    feed, most = kept_feed(config, photos, order, where), 0.0
    for step in range(order.steps_per_epoch):
        feed(step)
        most = max(most, memory("RssAnon"))
    return most - before, memory("VmHWM")
