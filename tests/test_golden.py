"""What each recipe learns in two tiny epochs, held against tests/golden.txt: a change of any figure is meant, or a mistake.

Where it is meant: `KIT_GOLDEN=write .venv/bin/python -m pytest tests/test_golden.py`, and the difference of the file is part of the change.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kit.augment.warp import normalise
from kit.config.override import override
from kit.config.recipes import RECIPES, recipe
from kit.models.teacher import build_teacher
from kit.pipeline import run
from kit.train.budget import Budget

FILE = Path(__file__).with_name("golden.txt")
CLOSE = 0.05  # another CPU adds in another order, and its teacher may look in another precision
SURE = 4  # what the teacher's logits of the right class are


def untrained_teacher(photos, data, file):
    """A ResNet-18 with the weights that it is born with, its classifier fitted by least squares: training one would multiply the last
    digits in which machines differ."""
    torch.manual_seed(0)
    model = build_teacher("torchvision/resnet18", 6).eval()
    paths = sorted((photos / "training").iterdir())
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2).float()
    labels = torch.tensor([int(path.name[0]) for path in paths])
    classifier, model.fc = model.fc, torch.nn.Identity()
    with torch.no_grad():
        features = model(normalise(pixels, data.mean, data.std)).double()
        features = torch.cat((features, torch.ones(len(paths), 1)), dim=1)
        solution = torch.linalg.pinv(features, rtol=1e-3) @ F.one_hot(labels, 6).double() * SURE
        classifier.weight.copy_(solution[:-1].T)
        classifier.bias.copy_(solution[-1])
    model.fc = classifier
    torch.save(model.state_dict(), file)
    return file


def curve(out):
    """A line an epoch: the stage, and each term of its loss."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    left_out = {"stage", "epoch", "step", "accuracy", "macro_f1"}
    return [(f"{line['stage']} {line['epoch']}", {k: v for k, v in line.items() if k not in left_out}) for line in lines]


def read_golden():
    """{recipe: its curve}."""
    golden = {}
    for line in FILE.read_text().splitlines():
        name, stage, epoch, *terms = line.split()
        golden.setdefault(name, []).append((f"{stage} {epoch}", {term: float(v) for term, _, v in (t.rpartition("=") for t in terms)}))
    return golden


@pytest.mark.parametrize("name", RECIPES)
def test_two_tiny_epochs_teach_what_they_taught(name, coloured, tmp_path):
    config = override(recipe(name).tiny(), ["competition=any", "limit=null"])
    teacher = untrained_teacher(coloured, config.data, tmp_path / "teacher.ckpt")
    run(config, coloured, tmp_path / "out", cache=tmp_path / "cache", budget=Budget(None), teacher_files=[teacher])
    found = curve(tmp_path / "out")
    if os.environ.get("KIT_GOLDEN") == "write":
        others = [line for line in FILE.read_text().splitlines() if line.split()[0] != name] if FILE.exists() else []
        mine = [" ".join([name, when, *(f"{term.replace(' ', '-')}={v:.6f}" for term, v in terms.items())]) for when, terms in found]
        lines = sorted(others + mine, key=lambda line: [*RECIPES].index(line.split()[0]))
        FILE.write_text("\n".join(lines) + "\n")
    golden = read_golden()[name]
    assert [when for when, _ in found] == [when for when, _ in golden]
    for (when, ours), (_, theirs) in zip(found, golden, strict=True):
        expected = {term.replace("-", " "): pytest.approx(v, rel=CLOSE, abs=CLOSE / 10) for term, v in theirs.items()}
        assert ours == expected, when
