"""Distillation methods in whole runs, in this process: every term from photos to a packed file, teachers in a chain, logits replayed."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from kit.compress.foreign import read_foreign
from kit.compress.pack import unpack
from kit.compression import compress
from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.terms import AFD, CE, CRD, KD, FixedKD, Hint, Review, SimKD
from kit.data.layout import find_dataset
from kit.distill.replay import Replay
from kit.errors import KitError
from kit.export import export
from kit.models.cost import count_macs
from kit.models.students import widths_of
from kit.models.teacher import build_teacher
from kit.pipeline import run
from kit.stages.begin import check_beginning, check_learnt
from kit.stages.teacher_file import file_of, read_teacher
from kit.train.budget import Budget
from kit.train.checkpoint import saved_in

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """Photos, a run's folder whose teacher.ckpt and student know them, with the decoded photos, and room for runs."""

    photos: Path
    assistant: Path
    root: Path

    def run(self, settings, out, teachers=None):
        """One run to its end; returns what must repeat bit for bit."""
        files = [self.assistant / "teacher.ckpt"] if teachers is None else teachers
        record = run(settings, self.photos, self.root / out, cache=self.assistant / "cache", budget=Budget(None), teacher_files=files)
        assert record["state"] == "done"
        results = sorted(saved.path.name for saved in saved_in(self.root / out) if saved.done)
        return results, (self.root / out / "student.kit").read_bytes(), (self.root / out / "metrics.jsonl").read_text()

    def forget(self):
        for file in (self.assistant / "cache").glob("teacher-*"):
            file.unlink()

    def said(self, out):
        return (self.root / out / "log.txt").read_text()

    def result(self, out):
        path = next(saved.path for saved in saved_in(self.root / out) if saved.done)
        return torch.load(path, weights_only=True)["state"]


def config(*terms, **changes):
    value = override(
        recipe("record").tiny(), ["competition=any", "student.name=record", "student.widths=[8,16,16,24,24,32,32]", "data.workers=1"]
    )
    return value.model_validate(value.model_dump() | {"distill": terms or (KD(temperature=4), CE(weight=0.1))} | changes)


@pytest.fixture(scope="module")
def assistant(coloured, tmp_path_factory):
    root = tmp_path_factory.mktemp("assistant")
    longer = override(config(), ["teacher.train.epochs=2", "train.epochs=8", "train.ema_decay=null"])
    Place(coloured, root / "run", root).run(longer, "run", teachers=[])
    return root / "run"


@pytest.fixture
def place(coloured, assistant, tmp_path):
    place = Place(coloured, assistant, tmp_path)
    place.forget()
    return place


STAGES = {"student": ("blocks.1", "blocks.3"), "teacher": ("layer1", "layer2")}


def test_fusion_attention_and_embeddings_train_and_stay_out_of_the_packed_student(place):
    terms = (CE(), CRD(student="blocks.5", teacher="layer4"), Review(**STAGES, width=8), AFD(**STAGES, width=8))
    place.run(config(*terms), "out")
    done = place.result("out")
    assert len(done["adapters"]) > 20
    assert unpack(place.root / "out" / "student.kit").parameters == sum(t.numel() for n, t in done["network"].items() if is_parameter(n))


def is_parameter(name):
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_simkd_hands_in_the_teachers_classifier(place):
    student = {"name": "record", "widths": (8, 16, 16, 24, 24, 32, 512)}
    place.run(config(SimKD(student="blocks.5", teacher="layer4"), student=student), "out")
    teacher = torch.load(place.assistant / "teacher.ckpt", weights_only=True)
    assert torch.equal(place.result("out")["network"]["fc.weight"], teacher["fc.weight"])
    on_grid = config(SimKD(student="blocks.5", teacher="layer4"), student=student, quantize={"train_epochs": 1})
    teachers, out = [place.assistant / "teacher.ckpt"], place.root / "grid"
    run(on_grid, place.photos, out, begin=place.root / "out", cache=place.root / "cache", budget=Budget(None), teacher_files=teachers)
    qat = next(saved.path for saved in saved_in(out) if saved.stage == "qat" and saved.done)
    best = torch.load(qat, weights_only=True)["state"]["best"]["weights"]
    assert (best["fc.step"] == 1).all()  # one that was begun with, too: its steps, as its weights, are not trained
    assert (best["blocks.5.pointwise.step"] != 1).any()


@pytest.mark.parametrize("terms", [(), (KD(temperature=4), Hint(student="blocks.1", teacher="layer1"))])
def test_replayed_answers_give_the_bytes_of_computed_ones_and_no_teacher_looks(place, terms):
    place.forget()
    stored = config(*terms, teacher={"store": "float16"})
    first = place.run(stored, f"first{len(terms)}")
    assert "of 0 steps were read" in place.said(f"first{len(terms)}")
    second = place.run(stored, f"second{len(terms)}")
    assert "of 12 steps were read" in place.said(f"second{len(terms)}")
    assert "of 0 computed" in place.said(f"second{len(terms)}")
    assert first == second


def test_float32_logits_are_those_of_a_run_that_stores_none(place):
    place.run(config(teacher={"store": "float32"}), "stored")
    place.run(config(), "bare")
    stored, bare = (place.result(out)["network"] for out in ("stored", "bare"))
    assert all(torch.equal(stored[name], bare[name]) for name in bare)


class Killed(BaseException):
    """SIGKILL as far as the run can tell."""


def test_a_run_killed_while_it_stores_goes_on_to_the_same_bytes(place, monkeypatch):
    stored = config(teacher={"store": "float16"})
    stored = override(stored, ["train.save_seconds=0"])
    write = Replay.write

    def die_in_the_middle(self, row):
        write(self, row if self.step != 9 else row[: len(row) // 2])
        if self.step == 9:
            raise Killed

    monkeypatch.setattr(Replay, "write", die_in_the_middle)
    with pytest.raises(Killed):
        place.run(stored, "killed")
    monkeypatch.setattr(Replay, "write", write)
    killed = place.run(stored, "killed")
    place.forget()
    assert killed == place.run(stored, "straight")


def test_a_run_teaches_a_smaller_student_and_several_teach_together(place):
    smaller, hint = {"name": "record", "widths": (8, 8, 8, 16, 16, 16, 16)}, Hint(student="blocks.1", teacher="blocks.3")
    teachers = [place.assistant, place.assistant / "student.kit", place.assistant / "teacher.ckpt"]
    place.run(config(KD(), hint, student=smaller), "student", teachers)
    assert "3 teachers together: validation accuracy" in place.said("student")


def test_a_teacher_sees_views_at_the_side_that_it_was_trained_at(place):
    larger = override(config(KD(), Hint(student="blocks.1", teacher="layer1")), ["data.image_size=64", "data.cache_size=64"])
    theirs = override(larger, ["teacher.image_size=32", "teacher.store=float16"])
    place.run(theirs, "theirs")
    told = json.loads((place.root / "theirs" / "run.json").read_text())["stages"]["teacher"]
    assert told["macs"] == sum(count_macs(build_teacher("torchvision/resnet18", 6), 32).values())
    alone = place.root / "alone.ckpt"  # beside no run that tells how it was trained
    shutil.copy(place.assistant / "teacher.ckpt", alone)
    place.run(override(theirs, ["teacher.image_size=null"]), "ours", [alone])
    assert "of 0 steps were read" in place.said("ours")
    place.run(theirs, "again")
    assert "of 0 computed" in place.said("again")
    with pytest.raises(KitError, match=r"teacher.image_size=32 is the side of a teacher that is there.* own at data.image_size=64"):
        place.run(theirs, "none", [])


def test_what_does_not_fit_the_networks_is_refused_before_the_photos_are_read(place):
    with pytest.raises(KitError, match=r"'layer9'.*Nearest: layer"):
        place.run(config(Hint(student="blocks.1", teacher="layer9")), "out")
    with pytest.raises(KitError, match=r"data.image_size 32, this run has 64: --set 'teacher.image_size=32'"):
        place.run(override(config(), ["data.image_size=64"]), "out", [place.assistant])
    assert not list((place.root / "out").iterdir())


def test_fixed_labels_are_those_of_kd_where_every_view_is_the_plain_one(place):
    """Without augmentation the two are one; with it the teacher would have seen something else."""
    plain = {"data": config().data.model_dump() | {"augment": {"horizontal_flip": 0}}}
    place.run(config(FixedKD(temperature=4), CE(weight=0.1), **plain), "fixed")
    place.run(config(KD(temperature=4), CE(weight=0.1), **plain), "asked")
    fixed, asked = ([line.partition('"accuracy"')[2] for line in metrics(place, out)] for out in ("fixed", "asked"))
    assert fixed == asked
    place.run(config(FixedKD(temperature=4), CE(weight=0.1)), "augmented")
    place.run(config(KD(temperature=4), CE(weight=0.1)), "right")
    assert metrics(place, "augmented") != metrics(place, "right")


def metrics(place, out):
    return (place.root / out / "metrics.jsonl").read_text().replace("kd-fixed", "kd").splitlines()


def test_fixed_labels_are_refused_beside_what_needs_the_teacher_at_every_view():
    with pytest.raises(ValueError, match="'kd' of every view"):
        config(FixedKD(), KD())
    with pytest.raises(ValueError, match="leave out mixup"):
        config(FixedKD(), data={"augment": {"mixup": 0.2}})


def test_labels_alone_train_no_teacher(place):
    place.run(config(CE()), "out", teachers=[])
    assert "none is trained" in place.said("out")
    assert not (place.root / "out" / "teacher.ckpt").exists()


def test_a_run_that_begins_with_anothers_student_only_prunes_it(place):
    """Its unpruned answers are the other's; a second session goes on with the same ones and no others."""
    slimmer = config(CE(), prune={"keep": 0.7, "finetune_epochs": 1})
    how = {"cache": place.assistant / "cache", "teacher_files": (), "budget": Budget(None)}
    record = run(slimmer, place.photos, place.root / "out", begin=place.assistant, **how)
    theirs = torch.load(next(s.path for s in saved_in(place.assistant) if s.done and s.stage == "distil"), weights_only=True)["state"]
    assert record["stages"]["distil"]["accuracy"] == theirs["best"]["accuracy"]
    assert record["stages"]["distil"]["epoch"] == 0
    assert record["parameters"] < record["stages"]["distil"]["parameters"]
    assert "Validation accuracy of the student over 1 epoch. " in (place.root / "out" / "report.html").read_text()
    assert run(slimmer, place.photos, place.root / "out", begin=place.assistant, **how)["state"] == "done"
    for _ in range(2):  # one that only packs, and again: its newest checkpoint is the one that tells of the other's student
        assert run(config(CE()), place.photos, place.root / "packed", begin=place.assistant, **how)["state"] == "done"
    wanted = override(slimmer, ["prune.keep=0.8"])
    for begin, out in ((place.assistant, "out"), (place.root / "out", "slim")):  # another pruning in its folder; of what is pruned
        with pytest.raises(KitError, match=r"--begin \S+distil-000000000-done-\w+\.pt") as refused:
            run(wanted, place.photos, place.root / out, begin=begin, **how)
        check_beginning(Path(re.search(r"--begin (\S+\.pt)", str(refused.value))[1]), wanted)
    with pytest.raises(KitError, match=r"otherwise.*train\.lr: \S+ → 0\.5; prune\.finetune_lr: \S+ → 0\.25\. Choose another --out, or"):
        run(override(slimmer, ["train.lr=0.5"]), place.photos, place.root / "out", begin=place.assistant, **how)
    place.run(config(CE()), "other", teachers=[])
    with pytest.raises(KitError, match=r"are not those that the run in .* was begun with"):
        run(slimmer, place.photos, place.root / "out", begin=place.root / "other", **how)
    with pytest.raises(KitError, match=r"was begun with another's student: name it again with --begin"):
        run(slimmer, place.photos, place.root / "out", **how)
    with pytest.raises(KitError, match=r"other holds a student that the run trains itself: leave out --begin"):
        run(config(CE()), place.photos, place.root / "other", begin=place.assistant, **how)
    for change in ("data.image_size=64", "data.std=[0.5,0.5,0.5]"):
        with pytest.raises(KitError, match=r"The student in .* was trained with data.* this run has .*: --set 'data"):
            run(override(slimmer, [change]), place.photos, place.root / "larger", begin=place.assistant, **how)
    wider = override(slimmer, ["student.widths=[8,16,16,24,24,32,64]"])
    with pytest.raises(KitError, match=r"--set 'student\.widths=\[8, 16, 16, 24, 24, 32, 32\]'"):
        run(wider, place.photos, place.root / "wider", begin=place.assistant, **how)


def test_logits_are_adjusted_once_whatever_is_made_of_the_run(place):
    """A run's checkpoints are not adjusted, its student.kit is."""
    photos, out = place.root / "photos", place.root / "out"
    shutil.copytree(place.photos, photos, ignore=shutil.ignore_patterns("5_1*"))
    settings = config(CE(), predict={"logit_adjustment": 1.0}, pack={"calibration": 0})
    how = {"cache": place.assistant / "cache", "budget": Budget(None)}
    run(settings, photos, out, **how)
    adjusted = unpack(out / "student.kit").student.fc.bias
    list(compress(out, ["8bit"], place.root / "s.kit", None, place.root, None, []))
    list(export(next(s.path for s in saved_in(out) if s.done), "ckpt", place.root / "w.ckpt", None, place.root, None, []))
    run(settings, photos, place.root / "again", begin=out, **how)
    for bias in (unpack(place.root / "s.kit").student.fc.bias, read_foreign(place.root / "w.ckpt").weights["fc.bias"]):
        assert torch.allclose(bias, adjusted, atol=2e-3)  # the file has it in half precision
    assert torch.equal(unpack(place.root / "again" / "student.kit").student.fc.bias, adjusted)
    with pytest.raises(KitError, match=r"student.kit are adjusted for uneven classes already.*Give its run's folder"):
        run(settings, photos, place.root / "twice", begin=out / "student.kit", **how)
    for other in ("0", "2"):
        with pytest.raises(KitError, match=rf"adjusted by 1 already, and not by {other} instead.*Give its run's folder"):
            list(
                compress(out / "student.kit", ["8bit"], place.root / "s.kit", None, place.root, None, [f"predict.logit_adjustment={other}"])
            )
    (out / "run.json").unlink()
    with pytest.raises(KitError, match=r"no run.json tells.*Give its student.kit, which is adjusted"):
        list(compress(out, ["8bit"], place.root / "s.kit", None, place.root, None, []))


def test_a_run_that_adjusted_nothing_can_be_adjusted_later(place):
    out, wish = place.assistant, ["predict.logit_adjustment=1"]
    for source, to in ((out, "a.kit"), (out / "student.kit", "b.kit")):
        list(compress(source, ["8bit"], place.root / to, None, place.root, None, wish))
    a, b, plain = (unpack(path).student.fc.bias for path in (place.root / "a.kit", place.root / "b.kit", out / "student.kit"))
    assert torch.allclose(a, b, atol=0.05)  # one is rounded twice
    assert not torch.allclose(a, plain, atol=0.05)
    with pytest.raises(KitError, match=r"train\.balanced=true it drew all of them as often"):
        list(compress(out, ["8bit"], place.root / "c.kit", None, place.root, None, [*wish, "train.balanced=true"]))
    shutil.copy(out / "student.kit", place.root / "alone.kit")
    with pytest.raises(KitError, match=r"no run.json tells.*Give the folder of its run"):
        list(compress(place.root / "alone.kit", ["8bit"], place.root / "c.kit", None, place.root, None, wish))


def test_what_has_learnt_from_held_out_photos_neither_begins_a_run_nor_teaches_one(place):
    """Without a validation folder the seed says which they are."""
    photos = place.root / "photos"
    shutil.copytree(place.photos, photos, ignore=shutil.ignore_patterns("validation"))
    held = Place(photos, place.assistant, place.root)
    held.run(config(CE()), "first", teachers=[])
    first, other = place.root / "first", override(config(), ["train.seed=1"])
    how = {"cache": place.assistant / "cache", "budget": Budget(None)}
    for source in (first, first / "student.kit", next(s.path for s in saved_in(first) if s.done)):
        for words in ({"begin": source}, {"teacher_files": (source,)}):
            with pytest.raises(KitError, match=r"was trained with train.seed 20220013, this run has 1.*: --set train.seed=20220013\."):
                run(other, photos, place.root / "other", **words, **how)
    assert not list((place.root / "other").rglob("*teacher*"))  # none was trained before
    share = override(config(CE()), ["data.subset=0.6"])  # of the same two parts
    assert run(share, photos, place.root / "share", begin=first, **how)["state"] == "done"


def test_whatever_a_run_has_left_teaches_its_own_classes_alone(place):
    for source in (place.assistant, place.assistant / "teacher.ckpt", place.assistant / "student.kit"):
        read_teacher(file_of(source), config(), tuple("012345"))
        with pytest.raises(KitError, match=r"knows other classes than the data has \('5' for 'z'\)"):
            read_teacher(file_of(source), config(), tuple("01234z"))
    with pytest.raises(KitError, match=r"knows other classes than the data has \('5' for 'z'\)"):
        check_learnt(place.assistant, config(), replace(find_dataset(place.photos, None, 0.2, 0), classes=tuple("01234z")))


def test_keeping_all_prunes_nothing(place):
    place.run(config(CE(), prune={"keep": 1, "finetune_epochs": 0}), "out", teachers=[])
    assert widths_of(unpack(place.root / "out" / "student.kit").student) == (8, 16, 16, 24, 24, 32, 32)


def test_a_packed_student_is_pruned_as_well_as_its_run_is(place):
    """Its norms are folded away, and come back without the statistics that pruning measures anew."""

    def accuracy(source):
        *_, said = compress(source, ["4000params"], place.root / "s.kit", place.photos, place.assistant / "cache", None, [])
        return float(re.search(r"accuracy (\d\.\d+)", said)[1])

    assert accuracy(place.assistant / "student.kit") > accuracy(place.assistant) - 0.2
