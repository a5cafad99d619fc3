"""How a run's state travels from one session to the next, and what is tried where Kaggle drops the source."""

from pathlib import Path
from typing import Any, get_args

from kit.remote.client import Kaggle
from kit.remote.datasets import upload
from kit.remote.metadata import read_metadata
from kit.remote.push import Dropped
from kit.remote.story import Story, Via

VIAS: tuple[Via, ...] = get_args(Via)
SLUG, STATE = 50, "-state"  # characters of a data set's title at most; what its slug ends with


def carry(story: Story, kernel: Path, kaggle: Kaggle, folder: Path) -> dict[str, Any]:
    """What the next push says otherwise than the metadata, so that its session finds the run's state.

    The furthest session is named by its version after one that brought nothing, which may have left nothing, and where it did not end
    well itself: Kaggle may mount the newest one that did.
    """
    if not story.furthest:
        return {}
    by_version = story.still or story.furthest.state != "COMPLETE"
    source = story.furthest.ref + (f"/{story.furthest.version}" if by_version else "")
    match story.via:
        case "self":
            return {"kernel_sources": [source]}
        case "pair":
            partner = {"id": f"{story.ref}-b", "title": f"{read_metadata(kernel, kaggle.user)['title']} b"}
            return {"kernel_sources": [source]} | (partner if story.furthest.ref == story.ref else {})
        case "dataset":
            owner, slug = story.ref.split("/")
            dataset = f"{owner}/{slug[: SLUG - len(STATE)].rstrip('-')}{STATE}"
            files = [file for file in (folder / "output").rglob("*") if file.is_file()]
            upload(kaggle, dataset, sorted(files, key=lambda file: file.name), f"step {story.step}")
            return {"dataset_sources": [dataset]}


def next_way(story: Story, changes: dict[str, Any], drop: Dropped) -> Via:
    """How the state travels where Kaggle dropped its source.

    Raises:
        KitError: what was dropped is not the state, or there is no other way left.
    """
    carried = {source for name, value in changes.items() if name.endswith("_sources") for source in value}
    if story.via == VIAS[-1] or not carried.intersection(drop.sources):
        raise drop
    return VIAS[VIAS.index(story.via) + 1]
