"""Logits of a decoded split, in its own order, and what they are worth."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kit.augment.views import evaluation_views
from kit.config.schema import Config, Data, Predict
from kit.data.cache import Photos
from kit.data.squares import as_tensor
from kit.device import is_shortage

BATCH = {"cpu": 64, "cuda": 512}  # photos at once; on a CPU four times as many leave its caches and take 1.3 times as long for a photo
PLAIN = Predict()  # the centre crop alone
SEEN = "train.final_fit"  # why an accuracy on validation says nothing
CENTRE, CORNERS = (0, 0), ((-1, -1), (1, -1), (-1, 1), (1, 1))  # of the resized photo, as `evaluation_views` takes them


@torch.no_grad()
def logits(
    model: nn.Module,
    photos: Photos,
    data: Data,
    *,
    views: Predict = PLAIN,
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Tensor:
    """float32 [N, K] on the CPU, on the model's device and in its precision.

    Args:
        model: in evaluation mode.
        views: which ones of a photo its logits are averaged over.
        limit: look at this many photos only.
        tick: called before every batch; it may raise to stop (the session's budget).
    """
    like = next(model.parameters())
    pixels, sizes = as_tensor(photos.pixels), torch.from_numpy(photos.sizes)
    places = [CENTRE, *(CORNERS if views.crops == 5 else ())]

    def ask(rows: slice) -> Tensor:
        part = pixels[rows].to(like.device)
        seen = (evaluation_views(part, sizes[rows], data, place).to(like.dtype) for place in places)
        answers = [model(x) for shown in seen for x in ((shown, shown.flip(-1)) if views.flip else (shown,))]
        return (sum(answers[1:], answers[0]) / len(answers)).float().cpu()

    out, batch, done, end = [], BATCH[like.device.type], 0, min(len(photos), limit or len(photos))
    while done < end:
        tick()
        try:
            out.append(ask(slice(done, min(done + batch, end))))
        except RuntimeError as error:  # a wide student's maps of 512 photos at 224 px are more than a T4 has
            if batch == 1 or not is_shortage(error):
                raise
            batch //= 2
        else:
            done += len(out[-1])
    return torch.cat(out)


def scores(model: nn.Module, photos: Photos, data: Data, *, views: Predict = PLAIN) -> dict[str, float]:
    """Scores of labelled photos, 0…1: "accuracy", the share whose largest logit is their label's, and "macro_f1", every class alike."""
    return scores_of(logits(model, photos, data, views=views).argmax(1).numpy(), photos.labels)


def scores_of(answer: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((answer == labels).mean()), "macro_f1": macro_f1(answer, labels)}


def confusion(answer: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 [K, K], photos of each true class (a row) and answer; scikit-learn's, whose import takes a second."""
    return np.bincount(labels * classes + answer, minlength=classes**2).reshape(classes, classes)


def macro_f1(answer: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of 2 · right / (answered + there are); a class that is neither answered nor there does not count."""
    table = confusion(answer, labels, int(max(answer.max(), labels.max())) + 1)
    right, either = np.diag(table), table.sum(0) + table.sum(1)
    return float((2 * right[either > 0] / either[either > 0]).mean())


def seen(config: Config) -> str:
    """What is said of the validation photos where a final fit's student is measured on them."""
    return f" on photos that it was trained on ({SEEN})" if config.train.final_fit else ""


def say(scores: dict[str, float]) -> str:
    if not scores:
        return "no validation accuracy (train.final_fit)"
    return f"validation accuracy {scores['accuracy']:.4f}, macro-F1 {scores['macro_f1']:.4f}"


def classes_of(answer: Tensor, photos: Photos, most_frequent: int) -> np.ndarray:
    """int64 [N]; a photo that does not decode gets the most frequent class, the best guess without looking."""
    predicted = answer.argmax(1).numpy()
    predicted[list(photos.bad)] = most_frequent
    return predicted
