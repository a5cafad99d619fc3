import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kit.data.draw import draw_dataset
from kit.data.layout import find_dataset


def histograms(split):
    photos = [np.asarray(Image.open(path)) for path in split.paths]
    return np.array([np.concatenate([np.histogram(p[..., c], 16, (0, 256))[0] for c in range(3)]) for p in photos])


def test_colour_alone_does_not_tell_the_drawn_shapes_apart(tmp_path):
    """Else the smoke test's accuracy would say nothing about the network."""
    dataset = find_dataset(draw_dataset(tmp_path), None, 0.2, 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000))
    model.fit(histograms(dataset.training), dataset.training.labels)
    assert model.score(histograms(dataset.validation), dataset.validation.labels) < 0.60
