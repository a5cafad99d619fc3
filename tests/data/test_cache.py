import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.data.cache import find_damage, fit_side, index_name, load_photos, read_index, scan
from kit.data.decode import to_square
from kit.data.layout import find_dataset
from kit.errors import KitError, Suspended
from kit.files import locked, sha256_of
from kit.train.budget import Budget


@pytest.fixture
def copy(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "photos")


def load(root, cache, log, side=32, **how):
    return load_photos(find_dataset(root, None, 0.2, 0).splits, side, cache, log, workers=2, **how)


def truncate(path):
    path.write_bytes(path.read_bytes()[:400])


def test_decoding_gives_the_same_pixels_with_any_number_of_workers(drawn, tmp_path, log):
    splits = find_dataset(drawn, None, 0.2, 0).splits
    one, three = (load_photos(splits, 32, tmp_path / str(n), log, workers=n)["training"].pixels for n in (1, 3))
    assert one.shape == (120, 32, 32, 3)
    assert np.array_equal(one, three)


def test_a_cache_is_built_once_and_keyed_by_content_and_side(copy, tmp_path, log):
    first = load(copy, tmp_path / "cache", log)["validation"]
    again = load(copy, tmp_path / "cache", log)["validation"]
    assert first.pixels.filename == again.pixels.filename
    shutil.copy(copy / "validation" / "0_0.jpg", copy / "validation" / "1_0.jpg")
    assert load(copy, tmp_path / "cache", log)["validation"].digest != first.digest
    assert load(copy, tmp_path / "cache", log, side=24)["validation"].pixels.shape[1] == 24


def test_a_photo_under_another_label_is_another_data_set(copy, tmp_path, log):
    """Its name alone changes: it is the last of its class, and then the first of the next."""
    before = load(copy, tmp_path / "cache", log)["validation"]
    last = max((copy / "validation").glob("0_*"), key=lambda path: path.name)
    last.rename(last.with_name("1_!.jpg"))
    after = load(copy, tmp_path / "cache", log)["validation"]
    assert np.array_equal(before.pixels, after.pixels)
    assert before.digest != after.digest


def test_small_photos_are_stored_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    square, width, height = to_square(tmp_path / "small.png", 48)
    assert (width, height, square.shape) == (30, 20, (48, 48, 3))
    assert np.array_equal(square[:20, :30], pixels)
    assert np.array_equal(square[20:, :30], np.broadcast_to(pixels[-1:], (28, 30, 3)))


def test_squares_are_as_large_as_the_largest_photo_and_no_larger(copy, tmp_path, log):
    Image.new("RGB", (60, 50)).save(copy / "training" / "5_99.jpg")  # among the last that are looked at
    photos = load(copy, tmp_path / "cache", log, side=64)
    assert [photos[name].pixels.shape[1] for name in ("training", "validation")] == [60, 48]


def test_an_oblong_photo_is_reduced_in_each_direction_and_keeps_its_size_in_words(tmp_path):
    Image.new("RGB", (100, 40), (200, 10, 10)).save(tmp_path / "wide.png")
    square, width, height = to_square(tmp_path / "wide.png", 50)
    assert (width, height, square.shape) == (100, 40, (50, 50, 3))


def test_bad_training_photos_stop_with_the_whole_list(copy, tmp_path, log, capsys):
    truncate(copy / "training" / "0_1.jpg")
    (copy / "training" / "1_1.jpg").write_text("not a photo")
    truncate(copy / "validation" / "2_2.jpg")
    with pytest.raises(KitError, match=r"3 photos of training and validation do not decode.*skip_bad"):
        load(copy, tmp_path / "cache", log)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("0_1.jpg", "1_1.jpg", "2_2.jpg"))


def test_bad_training_photos_may_be_skipped(copy, tmp_path, log):
    truncate(copy / "training" / "0_1.jpg")
    photos = load(copy, tmp_path / "cache", log, skip_bad=True)["training"]
    assert len(photos) == len(photos.labels) == len(photos.pixels) == 119
    assert "0_1.jpg" not in photos.names
    assert [int(name[0]) for name in photos.names] == photos.labels.tolist()


def test_skipping_a_photo_leaves_the_others_on_the_disk(copy, tmp_path, log):
    """A set that is larger than the memory may have one that does not decode."""
    whole = load(copy, tmp_path / "cache", log)["training"]
    row = whole.names.index("0_1.jpg")
    truncate(copy / "training" / "0_1.jpg")
    for _ in ("built", "found"):
        pixels = load(copy, tmp_path / "cache", log, skip_bad=True)["training"].pixels
        assert isinstance(pixels, np.memmap)
        assert np.array_equal(pixels, np.delete(whole.pixels, row, 0))


def test_what_is_kept_beside_a_skipped_photo_is_its_own(copy, tmp_path, log):
    """Sizes as well as names and labels: crops are drawn in them."""
    truncate(copy / "training" / "0_1.jpg")
    Image.new("RGB", (20, 30)).save(copy / "training" / "5_9.jpg")
    photos = load(copy, tmp_path / "cache", log, skip_bad=True)["training"]
    row = photos.names.index("5_9.jpg")
    assert len(photos.sizes) == 119
    assert (photos.sizes[row].tolist(), photos.labels[row]) == ([20, 30], 5)
    assert not photos.pixels[row].any()


def test_a_bad_evaluation_photo_keeps_its_row(copy, tmp_path, log):
    truncate(copy / "evaluation" / "0005.jpg")
    photos = load(copy, tmp_path / "cache", log)["evaluation"]
    assert len(photos) == len(photos.pixels) == len(photos.sizes) == 24
    assert list(photos.bad) == [5]
    assert [row for row, square in enumerate(photos.pixels) if not square.any()] == [5]


def test_photos_that_are_none_are_refused(copy, tmp_path, log):
    for path in (copy / "evaluation").iterdir():
        path.write_text("text")
    with pytest.raises(KitError, match="Not one of the 24 evaluation photos decodes"):
        load(copy, tmp_path / "cache", log)


TINY = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none "$1" && shift && exec "$@"', "-"]
LOADS = "import sys; from pathlib import Path; from tests.data.test_cache import load; load(Path(sys.argv[1]), Path(sys.argv[2]), print)"


def test_a_disk_that_is_too_small_is_named_before_the_work(drawn, tmp_path):
    within = [*TINY, tmp_path]
    if not shutil.which("unshare") or subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted for one process here")
    done = subprocess.run([*within, sys.executable, "-c", LOADS, drawn, tmp_path], capture_output=True, text=True, timeout=120)
    assert "120 training photos take 0.4 MB in squares of 32 px, and the disk of" in done.stderr, done.stderr
    assert "has 0.1 MB free" in done.stderr
    assert "decoded" not in done.stdout


def test_an_interrupted_build_leaves_nothing_that_looks_whole(drawn, tmp_path, log):
    def out_of_time():
        if list((tmp_path / "cache").glob(".training*/pixels.npy")):
            raise Suspended

    with pytest.raises(Suspended):
        load(drawn, tmp_path / "cache", log, tick=out_of_time)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def half_made(tmp_path):
    """As a build leaves it that was killed."""
    (place := tmp_path / "cache" / ".training-256px-0123456789abcdef").mkdir(parents=True)
    (place / "pixels.npy").write_bytes(b"")
    return place


def test_what_a_killed_build_has_left_is_removed_by_the_next_build_of_other_photos(drawn, half_made, tmp_path, log, capsys):
    (mine := half_made.with_name(".training-notes")).mkdir()
    load(drawn, tmp_path / "cache", log)
    assert (half_made.exists(), mine.exists()) == (False, True)
    assert f"the cache {half_made}, which was left half made, is removed" in capsys.readouterr().out


def test_what_another_process_is_just_building_is_left_alone(drawn, half_made, tmp_path, log, capsys):
    def stop():
        if "waiting for it" in capsys.readouterr().out:
            raise Suspended

    with locked(tmp_path / "cache"), pytest.raises(Suspended):
        load(drawn, tmp_path / "cache", log, tick=stop)
    assert half_made.exists()


def test_on_a_disk_without_locks_nothing_half_made_is_removed(drawn, half_made, tmp_path, log, monkeypatch):
    def none_here(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none_here)
    assert len(load(drawn, tmp_path / "cache", log)["training"]) == 120
    assert half_made.exists()


def test_a_damaged_cache_is_named_and_built_again(drawn, tmp_path, log, capsys):
    whole = load(drawn, tmp_path / "cache", log)["training"].pixels
    before = np.array(whole)
    place = next((tmp_path / "cache").glob("training*"))
    content = bytearray((place / "pixels.npy").read_bytes())
    content[-7] ^= 1
    (place / "pixels.npy").write_bytes(content)
    assert np.array_equal(load(drawn, tmp_path / "cache", log)["training"].pixels, before)
    assert f"{place} is damaged" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which file is flushed")
def test_looking_for_the_largest_photo_is_stopped_too(drawn, tmp_path, log):
    """All are smaller than the squares: on a disk that answers slowly it takes minutes."""
    (split, *_), asked = find_dataset(drawn, None, 0.2, 0).splits, []
    assert fit_side(split, 64, lambda: asked.append(1)) == 48
    assert len(asked) == 8  # of 120 photos each 16


def test_pixels_reach_the_disk_before_the_cache_has_its_name(drawn, tmp_path, log, monkeypatch):
    flush, flushed = os.fsync, []

    def watched(descriptor):
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    load_photos([find_dataset(drawn, None, 0.2, 0).evaluation], 32, tmp_path / "cache", log, workers=1)
    (cache,) = (tmp_path / "cache").iterdir()
    unnamed = f"cache/.{cache.name}"
    assert f"{unnamed}/pixels.npy" in flushed
    assert (flushed[-2], flushed[-1]) == (unnamed, "cache")


@pytest.mark.parametrize("name", ["pixels.npy", "index-*.json"])
def test_a_flipped_bit_or_a_cut_anywhere_in_a_cache_is_noticed(name, drawn, tmp_path):
    split = find_dataset(drawn, None, 0.2, 0).evaluation
    load_photos([split], 32, tmp_path / "cache", print, workers=1)
    place = next((tmp_path / "cache").iterdir())
    file = next(place.glob(name))
    whole = file.read_bytes()
    assert find_damage(place, split) is None
    for at in [*range(0, 128), *range(128, len(whole), max(1, len(whole) // 100)), len(whole) - 1]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert find_damage(place, split)
    for content in (b"", whole[:-1], whole + b"\0"):
        file.write_bytes(content)
        assert find_damage(place, split)
    file.unlink()
    assert find_damage(place, split)


def test_a_malicious_pickle_in_a_cache_is_never_run(drawn, tmp_path, log):
    """Nor one in a cache that claims the right digest of it: the cache is built again."""

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    load(drawn, tmp_path / "cache", log)
    place = next((tmp_path / "cache").glob("training*"))
    np.save(place / "pixels.npy", np.array([Attack()], dtype=object), allow_pickle=True)
    index = read_index(place) | {"sha256": sha256_of(place / "pixels.npy")}
    next(place.glob("index-*.json")).unlink()
    content = json.dumps(index).encode()
    (place / index_name(content)).write_bytes(content)
    assert load(drawn, tmp_path / "cache", log)["training"].pixels.dtype == np.uint8
    assert not (tmp_path / "owned").exists()


def test_a_cache_without_its_index_is_built_again(drawn, tmp_path, log):
    load(drawn, tmp_path / "cache", log)
    next((tmp_path / "cache").glob("evaluation*/index-*.json")).write_text(json.dumps({"version": 1}))
    assert len(load(drawn, tmp_path / "cache", log)["evaluation"]) == 24


def test_a_scan_for_the_loader_without_a_cache_drops_bad_photos(copy, log):
    truncate(copy / "training" / "0_1.jpg")
    split = find_dataset(copy, None, 0.2, 0).training
    kept, _ = scan(split, log, workers=2, skip_bad=True)
    assert len(kept) == 119
    with pytest.raises(KitError, match="1 photo of training and validation does not decode"):
        scan(split, log, workers=2)


def test_a_session_that_waits_for_anothers_cache_keeps_its_budget(drawn, tmp_path, log, capsys):
    def stop():
        if "waiting for it" in capsys.readouterr().out:
            raise Suspended("its time is over")

    (tmp_path / "cache").mkdir()
    with locked(tmp_path / "cache"), pytest.raises(Suspended):
        load(drawn, tmp_path / "cache", log, tick=stop)
    assert len(load(drawn, tmp_path / "cache", log)["training"]) == 120


def test_what_another_run_has_decoded_meanwhile_is_not_decoded_again(drawn, tmp_path):
    load(drawn, tmp_path / "theirs", print)
    said, other = [], ExitStack()

    def log(line):
        said.append(line)
        if "waiting for it" in line:
            shutil.copytree(tmp_path / "theirs", tmp_path / "cache", dirs_exist_ok=True)
            other.close()

    (tmp_path / "cache").mkdir()
    other.enter_context(locked(tmp_path / "cache"))
    load(drawn, tmp_path / "cache", log)
    assert len(said) == 1


def test_photos_that_are_decoded_already_are_read_within_the_budget(drawn, tmp_path, log):
    """Their bytes tell which cache is theirs, and a mount may give them slowly."""
    budget = Budget(None)
    load(drawn, tmp_path / "cache", log)
    budget.stop = "SIGTERM came"
    with pytest.raises(Suspended):
        load(drawn, tmp_path / "cache", log, tick=lambda: budget.insist("the photos were read"))
