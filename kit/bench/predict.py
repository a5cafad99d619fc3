"""`kit bench predict`: the student as it is handed in, read back from its packed file, against the network that was trained."""

import tempfile
from pathlib import Path

import torch

from kit import predict
from kit.bench.clock import Way, always, measure
from kit.bench.material import classes_of, decoded, training_photos
from kit.bench.outcome import Outcome, rates
from kit.compress.pack import pack, unpack
from kit.config.schema import Config
from kit.device import Device
from kit.models.students import widths_of
from kit.models.widths import new_student

PHOTOS = 512  # that are predicted at most in a call
PLAIN = "as trained"


def bench(config: Config, data: Path | None, cache: Path, device: Device, rounds: int, seconds: float) -> Outcome:
    split, where, side = training_photos(data, config), device.device, config.data.image_size
    photos, classes = decoded(split, config, cache), classes_of(split)
    trained = new_student(config.student, classes).eval()
    with tempfile.TemporaryDirectory(prefix="kit-bench-") as folder:
        file = Path(folder) / "student.kit"
        size = pack(file, trained, config, widths_of(trained), tuple(map(str, range(classes))), {})
        packed = unpack(file).student.to(where)
    trained, number = trained.to(where, memory_format=torch.contiguous_format), min(PHOTOS, len(photos))
    batch = torch.randn(min(predict.BATCH[where.type], number), 3, side, side, device=where)
    last = batch.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def look(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return network(images)

    ways = [
        Way("packed", "folded, channels last", always(lambda: look(packed, last)), len(batch)),
        Way(PLAIN, "batch norm apart, float32, channels first", always(lambda: look(trained, batch)), len(batch)),
        Way(
            "packed, with its views",
            "from decoded squares: crop, normalise, look; the test-time views of the recipe",
            always(lambda: predict.logits(packed, photos, config.data, views=config.predict, limit=number)),
            number,
        ),
    ]
    rows = rates(measure(ways, rounds, where, seconds))
    return Outcome(
        "predict", f"Logits of {config.recipe}'s student at {side} px", "images/s", PLAIN, rows, {"student.kit": f"{size:,} bytes"}
    )
