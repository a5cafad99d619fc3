import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.config.competitions import FOOD11
from kit.data.decode import photo_size
from kit.data.draw import draw_dataset
from kit.data.layout import find_dataset
from kit.data.splits import subset
from kit.errors import KitError


def find(root, classes=None, holdout=0.2):
    return find_dataset(root, classes, holdout, seed=0)


@pytest.fixture
def copy(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "deep" / "below" / "Food-11")


def to_class_folders(folder):
    for path in list(folder.iterdir()):
        place = folder / f"class{path.name[0]}"
        place.mkdir(exist_ok=True)
        path.rename(place / path.name)


def test_the_flat_layout_is_found_at_any_depth(copy, tmp_path):
    dataset = find(tmp_path)
    assert dataset.root == copy
    assert [len(split) for split in dataset.splits] == [120, 60, 24]
    assert np.bincount(dataset.training.labels).tolist() == [20] * 6
    assert not dataset.evaluation.labelled
    assert dataset.evaluation.paths[3].name == "0003.jpg"


def test_class_folders_give_names_and_labels(copy):
    to_class_folders(copy / "training")
    to_class_folders(copy / "validation")
    (copy / "training").rename(copy / "train")
    dataset = find(copy)
    assert dataset.classes == tuple(f"class{i}" for i in range(6))
    assert all(path.name.startswith(f"{label}_") for path, label in zip(dataset.training.paths, dataset.training.labels, strict=True))


def test_class_folders_that_are_numbers_are_in_the_order_of_the_numbers(copy):
    """Sorted as words the folder 10 would be class 2, and so in the CSV."""
    to_class_folders(copy / "training")
    to_class_folders(copy / "validation")
    for split in ("training", "validation"):
        for i, number in enumerate((0, 2, 9, 10, 11, 100)):
            (copy / split / f"class{i}").rename(copy / split / str(number))
    dataset = find(copy)
    assert dataset.classes == ("0", "2", "9", "10", "11", "100")
    assert {int(path.parent.name): label for path, label in zip(dataset.training.paths, dataset.training.labels, strict=True)}[100] == 5
    assert find(copy, tuple(sorted(dataset.classes))).classes == tuple(sorted(dataset.classes))  # as a student of before knows them


def test_class_folders_that_are_other_numbers_are_named_as_the_csv_has_them(copy):
    """A table's labels may count from 1, or be 1.0, 2.0, …, 10.0."""
    for split in ("training", "validation"):
        to_class_folders(copy / split)
        for i, number in enumerate(("1.0", "2.0", "3.0", "4.0", "10.0", "20.0")):
            (copy / split / f"class{i}").rename(copy / split / number)
    says = "the CSV counts classes from 0: there the folder 1.0 is 0, 20.0 is 5"
    assert find(copy).classes == ("1.0", "2.0", "3.0", "4.0", "10.0", "20.0")
    assert says in find(copy).counts()
    for split in ("training", "validation"):
        for i, folder in enumerate(sorted((copy / split).iterdir(), key=lambda place: float(place.name))):
            folder.rename(copy / split / f"0{i}")
    assert "the CSV counts" not in find(copy).counts()


def test_every_folder_is_listed_once(copy, monkeypatch):
    """On a disk that answers slowly each time of ten thousand photos is seconds."""
    for name in ("training", "validation"):
        to_class_folders(copy / name)
    scan, listed = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda place: listed.append(Path(place)) or scan(place))
    find(copy)
    assert sorted(listed) == sorted([copy, *(place for place in copy.rglob("*") if place.is_dir())])


def test_a_labelled_evaluation_split_keeps_its_labels(copy):
    for name in ("training", "validation"):
        to_class_folders(copy / name)
    shutil.rmtree(copy / "evaluation")
    shutil.copytree(copy / "validation", copy / "test")
    assert np.bincount(find(copy).evaluation.labels).tolist() == [10] * 6


@pytest.mark.parametrize("place", ["unlabelled", "training/unlabeled/00"])
def test_an_unlabelled_split_is_found_and_is_no_class(copy, place):
    """Beside the splits, or as the 2021 course has it: training/labeled/<class> and training/unlabeled/00."""
    plain = find(copy)
    if place != "unlabelled":
        (copy / "training").rename(copy / "labeled")
        (copy / "training").mkdir()
        (copy / "labeled").rename(copy / "training" / "labeled")
    shutil.copytree(copy / "evaluation", copy / place)
    dataset = find(copy)
    assert (len(dataset.training), len(dataset.unlabelled), plain.unlabelled) == (120, 24, None)
    both = dataset.training.joined(dataset.unlabelled)
    assert (both.name, (both.labels == -1).sum(), both.per_class(6).tolist()) == ("training", 24, [20] * 6)
    assert len(subset(dataset, 0.5, 0).unlabelled) == 12


def test_an_empty_unlabelled_split_is_refused(copy):
    (copy / "unlabelled").mkdir()
    refused(copy, "unlabelled", "no photo")


def test_classes_without_a_training_photo_are_named(copy):
    assert f"no training photo of {', '.join(FOOD11[6:])}" in find(copy, FOOD11).counts()
    assert "photo of" not in find(copy).counts()
    for photo in (copy / "validation").glob("2_*"):
        photo.unlink()
    assert "no validation photo of 2: no accuracy here tells of it" in find(copy).counts()


def test_an_empty_class_folder_is_passed_over_aloud(copy):
    to_class_folders(copy / "training")
    assert "no class" not in find(copy).counts()
    (copy / "training" / "class7" / "more").mkdir(parents=True)
    dataset = find(copy)
    assert len(dataset.classes) == 6
    assert f"no class, since no photo lies in it: {copy / 'training' / 'class7'}" in dataset.counts()


def test_photos_below_a_classs_folder_are_passed_over_aloud(copy):
    """As some archives have a folder images/ in each class."""
    to_class_folders(copy / "training")
    to_class_folders(copy / "validation")
    (copy / "training" / "class0" / "more").mkdir()
    (copy / "training" / "class0" / "0_1.jpg").rename(copy / "training" / "class0" / "more" / "0_1.jpg")
    dataset = find(copy)
    assert len(dataset.training) == 119
    assert f"below a class's are passed over: 1, such as {copy / 'training' / 'class0' / 'more'}" in dataset.counts()
    for folder in list((copy / "training").iterdir()):
        shutil.move(folder, copy / "training" / f"{folder.name}s" / "images")
    refused(copy, "training holds no photo", "class0s/images lie too deep: move them up")


def test_files_that_are_no_photos_are_passed_over_aloud(copy):
    for name in ("a.heic", ".DS_Store", "Thumbs.db", "0000.jpg:Zone.Identifier"):
        (copy / "evaluation" / name).write_bytes(b"")
    dataset = find(copy)
    assert len(dataset.evaluation) == 24
    assert f"no photos of a kind that is read: 1, such as {copy / 'evaluation' / 'a.heic'}" in dataset.counts()
    for name in ("0.csv", "b.HEIC"):
        (copy / "evaluation" / name).write_bytes(b"")
    assert f"that is read: 3 (2 .heic, 1 .csv), such as {copy / 'evaluation' / '0.csv'}" in find(copy).counts()
    for name in ("a.heic", "0.csv", "b.HEIC"):
        (copy / "evaluation" / name).unlink()
    assert "passed over" not in find(copy).counts()


def test_photos_of_every_kind_are_found_whatever_the_case_of_their_names(copy):
    endings = [".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".webp", ".WebP", ".bmp", ".BMP", ".gif", ".tif", ".TIFF"]
    for split in ("training", "validation", "evaluation"):
        for i, path in enumerate(sorted((copy / split).iterdir())):
            Image.open(path).save(path.with_suffix(endings[i % len(endings)]))
            path.unlink()
    dataset = find(copy)
    assert [len(split) for split in dataset.splits] == [120, 60, 24]
    assert {path.suffix for path in dataset.evaluation.paths} == set(endings)
    assert {photo_size(path) for path in dataset.evaluation.paths} == {(48, 48)}
    assert dataset.strange == ()


def test_what_a_macs_zip_holds_beside_the_photos_is_passed_over(copy):
    """`__MACOSX/` has the data set's folders once more, beside the data set or, of a zip that was made of one split, in that."""
    to_class_folders(copy / "training")
    to_class_folders(copy / "validation")
    photos = list(copy.rglob("*.jpg"))
    for above in (copy.parent, copy / "training", copy / "validation", copy / "evaluation"):
        for photo in (path for path in photos if above in path.parents):
            own = above / "__MACOSX" / photo.relative_to(above).with_name(f"._{photo.name}")
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(b"\0\5\x16\7")
            shutil.copy(own, photo.parent)  # as on a disk that is not a Mac's
    dataset = find(copy.parent)
    assert dataset.root == copy
    assert [len(split) for split in dataset.splits] == [120, 60, 24]
    assert (len(dataset.classes), dataset.strange, dataset.empty) == (6, (), ())


def test_without_validation_a_stratified_share_is_held_out(copy):
    shutil.rmtree(copy / "validation")
    dataset = find(copy)
    assert dataset.held_out
    assert np.bincount(dataset.validation.labels).tolist() == [4] * 6
    assert not {*dataset.training.paths} & {*dataset.validation.paths}


def refused(root, *words, classes=None):
    with pytest.raises(KitError) as error:
        find(root, classes)
    assert all(word in str(error.value) for word in words), error.value


def test_no_data_set_is_refused(tmp_path):
    refused(tmp_path, "No data set below", "--data")
    refused(tmp_path / "missing", "no folder")


def test_what_is_there_instead_of_a_data_set_is_said(copy, tmp_path):
    (copy / "evaluation").rename(tmp_path / "rest")
    refused(tmp_path, f"There is {copy / 'training'}, {copy / 'validation'}; beside it, in {copy}, is no test/")
    refused(tmp_path / "rest", "rest itself holds 24 photos, 0000.jpg for one: sort them. The shape is train/<class>/*.jpg")
    refused(copy / "training", "training itself holds 120 photos, 0_0.jpg for one: give the folder above it, or sort")
    to_class_folders(copy / "training")
    (copy / "training").rename(tmp_path / "mine")
    refused(tmp_path / "mine", "mine itself holds 6 folders of photos, class0 for one: move them into train/", "docs/your-own-photos.md")
    shutil.copytree(tmp_path / "mine", tmp_path / "above" / "mine")
    refused(tmp_path / "above", "above/mine itself holds 6 folders of photos, class0 for one: move them into train/")
    shutil.copytree(tmp_path / "rest", tmp_path / "alone" / "test")
    refused(tmp_path / "alone", f"There is {tmp_path / 'alone' / 'test'}; beside it, in {tmp_path / 'alone'}, is no train/")
    link = tmp_path / "linked" / "Food-11"
    link.parent.mkdir()
    link.symlink_to(copy)
    refused(tmp_path / "linked", f"{link} is a link, and links are not followed: give --data {link}")


def test_one_class_alone_is_refused_with_its_folder(copy):
    for photo in (*(copy / "training").glob("[1-5]_*"), *(copy / "validation").glob("[1-5]_*")):
        photo.unlink()
    refused(copy, "All 20 photos", f"one class, 0 in {copy / 'training'}:", "too deep")
    for name in ("training", "validation"):
        to_class_folders(copy / name)
    refused(copy, f"one class, class0 in {copy / 'training' / 'class0'}:", f"{copy / 'training'}/<class>/")


def test_a_class_of_files_that_are_not_read_is_named_where_one_alone_is_left(copy):
    """As a phone's .heic beside photos from elsewhere, or photos one folder deeper."""
    for name in ("training", "validation"):
        to_class_folders(copy / name)
    for folder in sorted((copy / "training").iterdir())[2:]:
        shutil.rmtree(folder)
    other = copy / "training" / "class1"
    for photo in other.iterdir():
        photo.rename(photo.with_suffix(".heic"))
    refused(copy, "one class, class0", f"{other} holds no photo (.bmp", f"{other}/1_0.heic, is none, or a link to nothing: save it as one")
    (other / "more").mkdir()
    shutil.copy(copy / "evaluation" / "0000.jpg", other / "more")
    refused(copy, "one class, class0", f"Those in {other}/more lie too deep: move them up, into {other}.")


def test_classes_one_folder_too_deep_are_not_told_to_be_poured_together(copy):
    """As an archive unpacked into train/ leaves train/train/<class>."""
    to_class_folders(copy / "training")
    (copy / "training").rename(copy / "deep")
    (copy / "training").mkdir()
    (copy / "deep").rename(copy / "training" / "train")
    refused(copy, f"The folders in {copy}/training/train, class0 for one, lie too deep: move them up, into {copy}/training.")


def test_photos_to_predict_that_are_of_a_kind_that_is_not_read_are_shown(copy):
    for photo in (copy / "evaluation").iterdir():
        photo.rename(photo.with_suffix(".heic"))
    refused(copy, f"{copy / 'evaluation'} holds no photo to predict (.bmp", "0000.heic, is none, or a link to nothing")
    refused(copy / "evaluation", "What is there, such as", "0000.heic, is no photo of a kind that is read (.bmp")


def test_an_archive_that_may_be_unpacked_already_hides_nothing_of_what_is_there(copy, tmp_path):
    (copy / "photos.zip").write_bytes(b"PK")
    find(copy)
    (copy / "evaluation").rename(tmp_path / "rest")
    refused(copy, f"Unpack photos.zip first, unless that is done. There is {copy / 'training'}", "is no test/")
    (tmp_path / "rest" / "photos.zip").write_bytes(b"PK")
    refused(tmp_path / "rest", "Unpack photos.zip first, unless that is done.", "rest itself holds 24 photos")


def test_an_archive_is_refused(tmp_path):
    (tmp_path / "food.zip").write_bytes(b"PK")
    refused(tmp_path / "food.zip", "Unpack it")


def test_two_data_sets_are_refused_with_both_paths(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "again")
    refused(tmp_path, "2 data sets", str(copy), str(tmp_path / "again"))


def test_what_lies_in_a_hidden_folder_is_no_other_data_set(copy, tmp_path):
    shutil.copytree(copy, trash := tmp_path / ".Trash-1000" / "files" / "Food-11")
    assert find(tmp_path).root == copy
    assert find(trash.parents[1]).root == trash
    shutil.rmtree(copy)
    shutil.rmtree(trash / "evaluation")
    refused(tmp_path, "Check that the archive is unpacked and that --data points at it or above it.")


def test_two_folders_for_one_split_are_refused_with_both_names(copy):
    (copy / "Train").mkdir()
    with pytest.raises(KitError, match=r"holds training/ and Train/, which are two names of one split"):
        find_dataset(copy, None, None, 0)


def test_two_folders_whose_names_differ_in_letters_case_are_refused(copy):
    shutil.copytree(copy / "training", copy / "Training")
    if len(list(copy.glob("[tT]raining"))) < 2:
        pytest.skip("this file system takes them for one")
    with pytest.raises(KitError, match=r"holds Training/ and training/, which are two names of one split"):
        find_dataset(copy, None, None, 0)


def test_an_empty_split_is_refused(copy):
    shutil.rmtree(copy / "validation")
    (copy / "validation").mkdir()
    refused(copy, str(copy / "validation"), "no photo")


def test_photos_that_are_named_by_their_date_have_no_labels_in_their_names(copy):
    """As a phone names them: twenty million classes would be counted and listed."""
    for i, photo in enumerate((copy / "training").iterdir()):
        photo.rename(photo.with_name(f"20231118_{i:06}.jpg"))
    refused(copy, "would be of class 20231118, and there are 120 photos in all", "a folder per class")


def test_a_label_out_of_range_is_refused(copy):
    (copy / "training" / "0_0.jpg").rename(copy / "training" / "11_0.jpg")
    refused(copy, "11_0.jpg", "0 to 10", classes=FOOD11)


def test_an_unlabelled_training_photo_is_refused(copy):
    (copy / "training" / "0_0.jpg").rename(copy / "training" / "breakfast.jpg")
    refused(copy, "breakfast.jpg", "<label>_<id>.jpg")
    (copy / "training" / "breakfast.jpg").rename(copy / "training" / "cat_17.jpg")  # as <label>_<id> may be read
    refused(copy, "cat_17.jpg", "a folder per class", "labels 0, 1, 2 …")
    (copy / "training" / "cat_17.jpg").rename(copy / "training" / "10153412345678901234_n.jpg")
    refused(copy, "10153412345678901234_n.jpg", "<label>_<id>.jpg")


def test_a_repeated_evaluation_id_is_refused(copy):
    shutil.copy(copy / "evaluation" / "0003.jpg", copy / "evaluation" / "0003.png")
    refused(copy, "0003", "0003.png", "more than once")


def test_photos_of_one_name_in_two_class_folders_are_told_apart_by_the_folder(copy):
    to_class_folders(copy / "training")
    to_class_folders(copy / "validation")
    shutil.rmtree(copy / "evaluation")
    for place in ("class0", "class3"):
        (copy / "test" / place).mkdir(parents=True)
        shutil.copy(copy / "validation" / "class0" / "0_1.jpg", copy / "test" / place / "0001.jpg")
    assert find(copy).evaluation.names == ("class0/0001.jpg", "class3/0001.jpg")
    shutil.copy(copy / "test" / "class3" / "0001.jpg", copy / "test" / "class3" / "0001.png")
    refused(copy, "class3/0001 more than once", "class3/0001.png")


def test_photos_beside_folders_of_photos_are_refused(copy):
    """A stray folder of thumbnails would be the only class there is."""
    (copy / "evaluation" / "thumbs").mkdir()
    shutil.copy(copy / "evaluation" / "0003.jpg", copy / "evaluation" / "thumbs")
    refused(copy, "24 photos and, beside them, folders of photos, thumbs for one")


def test_a_name_that_no_csv_could_hold_is_refused(copy):
    shutil.copy(copy / "evaluation" / "0003.jpg", os.fsdecode(os.fsencode(copy / "evaluation") + b"/caf\xe9.jpg"))
    refused(copy, "caf\\udce9.jpg", "is no UTF-8")


def test_a_class_whose_name_no_student_kit_could_hold_is_refused(copy):
    """It came to light where the student is packed, after the teacher was trained."""
    to_class_folders(copy / "training")
    os.rename(copy / "training" / "class0", os.fsencode(copy / "training") + b"/caf\xe9")
    refused(copy, "caf\\udce9/0_0.jpg", "is no UTF-8")


def test_a_folder_that_is_called_like_a_photo_is_none_and_a_link_that_leads_nowhere_is_named(copy):
    (copy / "training" / "0_thumbs.jpg").mkdir()
    assert len(find(copy).training) == 120
    (copy / "training" / "0_annexed.jpg").symlink_to("../.git/annex/objects/0.jpg")
    refused(copy, "0_annexed.jpg is a link to ../.git/annex/objects/0.jpg, which is not there")
    (copy / "training" / "0_annexed.jpg").unlink()
    (copy / "training" / "0_linked.jpg").symlink_to(copy / "training" / "0_1.jpg")
    assert len(find(copy).training) == 121


@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_that_is_called_like_a_photo_is_told_and_not_waited_for(copy, link):
    os.mkfifo(copy / ("pipe" if link else "training/0_pipe.jpg"))
    if link:
        (copy / "training" / "0_pipe.jpg").symlink_to(copy / "pipe")
    refused(copy, "0_pipe.jpg is no file but a pipe, a socket or a device", "Remove it")


def test_the_only_photo_of_a_class_can_not_be_held_out_and_is_named(copy):
    shutil.rmtree(copy / "validation")
    for photo in list((copy / "training").glob("5_*"))[1:]:
        photo.unlink()
    refused(copy, "5_", "is the only training photo of its class", "a validation folder")


def test_links_to_nothing_are_shown_where_photos_were_to_be(copy):
    for photo in (copy / "training").iterdir():
        photo.unlink()
    (copy / "training" / ".hidden").touch()
    (copy / "training" / "0_1").symlink_to("nowhere")
    refused(copy, "holds no photo", "such as", "0_1, is none, or a link to nothing")


def test_another_number_of_class_folders_than_the_competitions_is_refused(copy):
    to_class_folders(copy / "training")
    refused(copy, "6 class folders", "11 classes", "competition=any", classes=FOOD11)


def test_drawing_again_gives_the_same_bytes(drawn, tmp_path):
    again = draw_dataset(tmp_path, seed=1, splits={"training": 120, "validation": 60, "evaluation": 24})
    assert all((again / p.relative_to(drawn)).read_bytes() == p.read_bytes() for p in drawn.rglob("*.jpg"))
