import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from kit import predict
from kit.augment.views import evaluation_views
from kit.compress.adjust import adjust_logits
from kit.compress.pack import pack
from kit.compression import compress
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.schema import Data, Predict
from kit.data.cache import Photos
from kit.errors import KitError
from kit.models.students import build_student, widths_of
from kit.score import predict_split

DATA = Data(image_size=32, crop_pct=0.8, cache_size=40)


def photos(n=6):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)
    return Photos(pixels, np.full((n, 2), 40), np.arange(n) % 3, tuple(map(str, range(n))), {}, "")


def test_macro_f1_is_scikit_learns():
    draw = np.random.default_rng(1)
    for classes in (2, 5):
        answer, labels = draw.integers(0, classes, 60), draw.integers(0, classes + 1, 60)
        assert predict.macro_f1(answer, labels) == pytest.approx(f1_score(labels, answer, average="macro"))
    assert predict.macro_f1(np.array([0, 0, 4]), np.array([0, 0, 2])) == pytest.approx(1 / 3)


def test_a_corner_of_the_view_is_the_corner_of_the_resized_photo():
    material = photos()
    pixels, sizes = torch.from_numpy(material.pixels), torch.from_numpy(material.sizes)
    plain = Data(image_size=32, crop_pct=0.8, cache_size=40, mean=(0, 0, 0), std=(1, 1, 1))
    whole = pixels.permute(0, 3, 1, 2) / 255
    for (x, y), part in {(-1, -1): (0, 0), (1, -1): (8, 0), (1, 1): (8, 8), (0, 0): (4, 4)}.items():
        wanted = whole[:, :, part[1] : part[1] + 32, part[0] : part[0] + 32]
        assert torch.allclose(evaluation_views(pixels, sizes, plain, (x, y)), wanted, atol=1e-4)


def test_five_crops_and_flips_are_averaged():
    model, material = build_student("hw13", (4, 4, 4, 4), 3).eval(), photos()
    with torch.no_grad():
        views = [
            evaluation_views(torch.from_numpy(material.pixels), torch.from_numpy(material.sizes), DATA, place)
            for place in (predict.CENTRE, *predict.CORNERS)
        ]
        answers = torch.stack([model(x) for view in views for x in (view, view.flip(-1))])
    assert torch.allclose(predict.logits(model, material, DATA, views=Predict(crops=5, flip=True)), answers.mean(0), atol=1e-5)
    assert torch.allclose(predict.logits(model, material, DATA), answers[0], atol=1e-6)


@pytest.mark.parametrize(("limit", "looked_at"), [(None, 150), (70, 70), (64, 64), (1, 1), (900, 150)])
def test_a_limit_is_the_number_of_photos_that_are_looked_at(limit, looked_at):
    model, material = build_student("hw13", (4, 4, 4, 4), 3).eval(), photos(150)  # on a CPU in batches of 64
    found, whole = predict.logits(model, material, DATA, limit=limit), predict.logits(model, material, DATA)
    assert len(found) == looked_at
    assert torch.allclose(found, whole[:looked_at], atol=1e-5)


class TooLarge(nn.Module):
    """Takes no more photos at once than some memory would."""

    def __init__(self, model, most, error):
        super().__init__()
        self.model, self.most, self.error = model, most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return self.model(x)


def test_where_the_memory_is_short_fewer_photos_are_looked_at_at_once():
    model, material = build_student("hw13", (4, 4, 4, 4), 3).eval(), photos(150)
    whole = predict.logits(model, material, DATA)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")):
        assert torch.allclose(predict.logits(TooLarge(model, 20, error), material, DATA), whole, atol=1e-5)
        with pytest.raises(RuntimeError, match=r"memory|ALLOC"):
            predict.logits(TooLarge(model, 0, error), material, DATA)
    with pytest.raises(RuntimeError, match="must match"):
        predict.logits(TooLarge(model, 20, RuntimeError("sizes must match")), material, DATA)


def test_adjusted_logits_take_the_log_of_the_priors():
    student, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(2, 4)
    adjusted = adjust_logits(student, np.array([60, 30, 10]), 1.5)
    assert torch.allclose(adjusted(x), student(x) - 1.5 * torch.tensor([0.6, 0.3, 0.1]).log(), atol=1e-6)
    assert adjusted is not student


def test_a_class_without_a_training_photo_counts_as_one():
    student, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(2, 4)
    found = adjust_logits(student, np.array([8, 1, 0]), 1.0)(x)
    assert torch.allclose(found, student(x) - torch.tensor([0.8, 0.1, 0.1]).log(), atol=1e-6)


def knows(classes, place):
    student = build_student("record", (), len(classes)).eval()
    pack(place, student, recipe("sample"), widths_of(student), classes, {})
    return place


def sorted_into(names, drawn, place):
    """The first photos of each class in a folder of its own, as many classes as names."""
    for split in ("training", "validation"):
        for label, name in enumerate(names):
            (place / split / name).mkdir(parents=True)
            for photo in sorted((drawn / split).glob(f"{label}_*"))[:5]:
                shutil.copy(photo, place / split / name)
    shutil.copytree(drawn / "evaluation", place / "evaluation")
    return place


@pytest.mark.parametrize("names", ["xyz", "ab", "abcd", "012"])
def test_photos_of_other_classes_are_not_scored(names, drawn, tmp_path):
    file, data = knows(tuple("abc"), tmp_path / "s.kit"), sorted_into(names, drawn, tmp_path / "photos")
    with pytest.raises(KitError, match=r"s.kit knows other classes than the data has \(.*Give one that was trained on these classes"):
        list(predict_split(file, data, tmp_path / "s.csv", "validation", tmp_path))


def test_a_split_is_scored_in_the_students_order_of_classes_into_a_folder_that_is_made(drawn, tmp_path):
    run, data = knows(tuple("cab"), tmp_path / "student.kit").parent, sorted_into("abc", drawn, tmp_path / "photos")
    *said, last = predict_split(run, data, tmp_path / "new" / "s.csv", "validation", tmp_path)
    assert [line.split()[0] for line in said[0].splitlines()[2:5]] == ["c", "a", "b"]
    assert "on 15 validation photos" in said[1]
    assert last.endswith("new/s.csv: 15 rows")


def test_both_macro_means_leave_out_a_class_that_is_neither_there_nor_answered(drawn, tmp_path):
    torch.manual_seed(0)  # a new student answers one class to nearly everything, and not the last
    file, data = knows(tuple("abcd"), tmp_path / "s.kit"), sorted_into("abcd", drawn, tmp_path / "photos")
    shutil.rmtree(data / "validation" / "d")
    report, last, _ = predict_split(file, data, tmp_path / "s.csv", "validation", tmp_path)
    answered = {line.split(",")[1] for line in (tmp_path / "s.csv").read_text().splitlines()[1:]}
    assert "3" not in answered
    mean = next(line for line in report.splitlines() if "macro avg" in line).split()[4]
    assert f"macro-F1 {mean} on 15 validation photos" in last


@pytest.mark.parametrize("place", ["", "test"])
def test_photos_alone_are_predicted_with_the_students_classes(place, drawn, tmp_path):
    file, alone = knows(tuple("cab"), tmp_path / "s.kit"), tmp_path / "photos" / place
    shutil.copytree(drawn / "evaluation", alone)
    (alone / "0005.jpg").write_bytes(b"no photo")
    first, guess, last = predict_split(file, tmp_path / "photos", tmp_path / "s.csv", "evaluation", tmp_path)
    assert first.startswith("24 photos")
    assert first.endswith("s.kit: 0 c, 1 a, 2 b")
    assert guess.startswith("row 0005 is a guess, class 0: its photo does not decode, and there are no training photos")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert (last.endswith("s.csv: 24 rows"), lines[1][:5], lines[6]) == (True, "0000,", "0005,0")


@pytest.mark.parametrize("place", ["", "test"])
def test_what_is_passed_over_beside_photos_alone_is_said(place, drawn, tmp_path):
    """It gets no row."""
    file, alone = knows(tuple("cab"), tmp_path / "s.kit"), tmp_path / "photos" / place
    shutil.copytree(drawn / "evaluation", alone)
    (alone / "0005.jpg").rename(alone / "0005.heic")
    first, second, _ = predict_split(file, tmp_path / "photos", tmp_path / "s.csv", "evaluation", tmp_path)
    assert first.startswith("23 photos")
    assert second == f"passed over, since they are no photos of a kind that is read: 1, such as {alone / '0005.heic'}"


def test_a_table_that_no_prediction_has_left_is_not_written_over(drawn, tmp_path):
    file, labels = knows(tuple("cab"), tmp_path / "s.kit"), tmp_path / "train.csv"
    labels.write_text("image_id,label\n0_1.jpg,c\n")
    with pytest.raises(KitError, match=r"train\.csv holds something else than predictions.*it begins with 'image_id,label'.*--out another"):
        list(predict_split(file, drawn / "evaluation", labels, "evaluation", tmp_path))
    assert labels.read_text().startswith("image_id")
    for _ in range(2):
        list(predict_split(file, drawn / "evaluation", tmp_path / "s.csv", "evaluation", tmp_path))


def test_a_labelled_photo_that_does_not_decode_is_named_and_left_out(drawn, tmp_path, capsys):
    """To predict has no --set data.skip_bad."""
    file, data = knows(tuple("abc"), tmp_path / "s.kit"), sorted_into("abc", drawn, tmp_path / "photos")
    (bad := sorted((data / "validation" / "b").iterdir())[0]).write_bytes(b"no photo")
    *_, scored, last = predict_split(file, data, tmp_path / "s.csv", "validation", tmp_path)
    assert "on 14 validation photos" in scored
    assert last.endswith("s.csv: 14 rows")
    assert f"{bad}: cannot identify image file" in capsys.readouterr().out.replace("\n", " ")


def test_photos_alone_in_the_students_class_folders_are_scored(drawn, tmp_path):
    file, data = knows(tuple("cab"), tmp_path / "s.kit"), sorted_into("abc", drawn, tmp_path / "photos")
    shutil.rmtree(data / "training")
    shutil.rmtree(data / "evaluation")
    (data / "validation").rename(data / "test")
    said = list(predict_split(file, data, tmp_path / "s.csv", "evaluation", tmp_path))
    assert "on 15 evaluation photos" in said[2]
    (data / "test" / "a").rename(data / "test" / "z")
    with pytest.raises(KitError, match=r"z is none of the 3 classes, such as c\. Remove"):
        list(predict_split(file, data, tmp_path / "s.csv", "evaluation", tmp_path))


def test_the_students_class_folders_may_lie_in_the_folder_itself(drawn, tmp_path):
    file, data = knows(tuple("cab"), tmp_path / "s.kit"), sorted_into("abc", drawn, tmp_path / "photos")
    said = list(predict_split(file, data / "validation", tmp_path / "s.csv", "evaluation", tmp_path))
    assert "on 15 evaluation photos" in said[2]
    with pytest.raises(KitError, match="No data set below"):
        list(predict_split(knows(tuple("cad"), tmp_path / "t.kit"), data / "validation", tmp_path / "s.csv", "evaluation", tmp_path))


def test_photos_that_were_trained_on_are_said_to_be(drawn, tmp_path):
    config = override(recipe("sample").tiny(), ["train.final_fit=true"])
    student = build_student("record", (), 6).eval()
    pack(tmp_path / "s.kit", student, config, widths_of(student), tuple("012345"), {})
    said = list(predict_split(tmp_path / "s.kit", drawn, tmp_path / "s.csv", "validation", tmp_path))
    assert "on 60 validation photos, which it was trained on (train.final_fit)" in said[1]
    *_, said = compress(tmp_path / "s.kit", ["4bit"], tmp_path / "t.kit", drawn, tmp_path / "cache", None, [])
    assert "at 32 px on photos that it was trained on (train.final_fit)" in said


def test_half_a_data_set_is_no_folder_of_photos_alone(drawn, tmp_path):
    file, data = knows(tuple("abcdef"), tmp_path / "s.kit"), shutil.copytree(drawn, tmp_path / "photos")
    shutil.rmtree(data / "evaluation")
    with pytest.raises(KitError, match=r"beside it, in .*photos, is no test/"):
        list(predict_split(file, data, tmp_path / "s.csv", "evaluation", tmp_path))


@pytest.mark.parametrize("each", [1, 2])
def test_too_few_photos_to_hold_any_out_leave_the_other_splits_to_predict(each, drawn, tmp_path):
    file, data = knows(tuple("abcdef"), tmp_path / "s.kit"), sorted_into("abcdef", drawn, tmp_path / "photos")
    shutil.rmtree(data / "validation")
    for photo in [photo for folder in (data / "training").iterdir() for photo in sorted(folder.iterdir())[each:]]:
        photo.unlink()
    *_, last = predict_split(file, data, tmp_path / "s.csv", "evaluation", tmp_path)
    assert last.endswith("s.csv: 24 rows")
    *_, scored, _ = predict_split(file, data, tmp_path / "s.csv", "training", tmp_path)
    assert f"on {6 * each} training photos" in scored
    with pytest.raises(KitError, match="can't be divided"):
        list(predict_split(file, data, tmp_path / "s.csv", "validation", tmp_path))


def test_numbers_in_names_are_classes_by_their_place(drawn, tmp_path):
    said = list(predict_split(knows(tuple("abcdefgh"), tmp_path / "s.kit"), drawn, tmp_path / "s.csv", "training", tmp_path))
    assert "on 120 training photos" in said[1]
