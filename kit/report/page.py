"""`report.html`: a run on one page that needs neither network nor script. What is not known yet is left out, section by section."""

import json
import shlex
from pathlib import Path
from typing import Any

from kit.config.differences import differing
from kit.config.recipes import RECIPES
from kit.config.schema import Predict
from kit.report import scores
from kit.report.answered import agreements, calibration, confused, moves, photos
from kit.report.figures import histogram
from kit.report.lead import first
from kit.report.learning import curves, times
from kit.report.render import render
from kit.report.run import Run

LAYERS = 12  # histograms


def page(run: Run) -> str:
    """A run's page."""
    return render("page.html", {"run": run, "record": run.record} | first(run) | sections(run))


def sections(run: Run) -> dict[str, Any]:
    ours, labels = run.logits.get("quantize"), run.answers.labels
    of_answers: dict[str, Any] = {"right": [], "mistakes": [], "confusion": None, "calibration": None}
    if ours is not None:
        right, wrong = scores.surest(ours, labels), scores.worst(ours, labels)
        of_answers = {
            "right": photos(run, ours, right),
            "mistakes": photos(run, ours, wrong),
            "confusion": confused(run, ours, labels),
            "calibration": calibration(run, ours, labels),
        }
    return of_answers | {
        "stages": run.stages,
        "means": means(run),
        "looks": looks(run.config.predict),
        "packing": run.record["stages"].get("quantize", {}).get("packing"),
        "agreements": agreements(run),
        "curves": curves(run),
        "times": times(run),
        "moves": moves(run),
        "slimmed": slimmed(run),
        "histograms": histograms(run),
        "changes": changes(run),
        "config": json.dumps(run.record["config"], indent=2, ensure_ascii=False),
        "again": again(run),
    }


def means(run: Run) -> dict[str, str]:
    """{kind of stage: what it does, for one who has never heard of it}."""
    config = run.config
    return {
        "teacher": "a large network, " + ("to be learned from" if config.taught else "to compare with"),
        "distil": "the student, as it learned from " + ("its teacher" if config.taught else "the labels"),
        "prune": "its least useful channels cut out",
        "finetune": "trained on, to mend the cut",
        "lowrank": "its layers made of thinner ones, and trained on",
        "qat": f"trained with weights of {config.pack.bits} bits",
        "quantize": f"its weights rounded to {config.pack.bits} bits, in a file",
    }


def looks(views: Predict) -> str:
    """What the packed student's answers are averaged over, where it is more than one look."""
    if views.crops == 5:
        return ", averaged over centre and corners" + (", each with its mirror image" if views.flip else "")
    return ", averaged with the mirrored photo" if views.flip else ""


def slimmed(run: Run) -> list[tuple[int, int, int]]:
    """(layer, width before, after) where channels were taken."""
    before, after = run.widths["distil"], run.widths["quantize"]
    return [(i + 1, b, a) for i, (b, a) in enumerate(zip(before, after, strict=True))] if before != after else []


def histograms(run: Run) -> list[dict[str, Any]]:
    largest = sorted(run.weights, key=lambda entry: -entry[1].numel())[:LAYERS]
    names, found = {name for name, *_ in largest}, []
    for name, before, after in run.weights:
        if name in names:
            error = float((after - before).square().mean().sqrt() / before.std())
            shape = "×".join(map(str, before.shape))
            says = f"Histogram of the {before.numel():,} weights of {name} before and after packing, {error:.2%} of their spread apart."
            figure = histogram(before.flatten().numpy(), after.flatten().numpy(), says)
            found.append({"name": name.removesuffix(".weight"), "shape": shape, "error": error, "figure": figure})
    return found


def changes(run: Run) -> list[tuple[str, str, str]]:
    """(field, in the recipe as it is written, here) where they differ."""
    made = RECIPES.get(run.record["recipe"].removesuffix("-tiny"))
    found = differing(made().model_dump(mode="json"), run.record["config"]) if made else {}
    return [(field, *values) for field, values in found.items()]


def again(run: Run) -> list[str]:
    """The commands of its sessions, each once. What began one on Kaggle is none, and what was refused did nothing."""
    sessions = [session for session in run.record["sessions"] if session.get("ended") != "refused"]
    said = [shlex.split(session.get("command", "")) for session in sessions]
    return list(dict.fromkeys(shlex.join(["kit", *words[1:]]) for words in said if words and Path(words[0]).name in ("kit", "__main__.py")))
