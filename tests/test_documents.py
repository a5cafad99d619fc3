"""What the documents say is so: every command in them is one that the kit takes, and the slow tests run each of them.

A command stands in a fenced `sh` block. It runs as it is written, but smaller (`--tiny`, drawn photos, a server on loopback for Kaggle),
one document after the other in a folder like a clone's. A block that can't be run has a comment `<!-- not tested: why -->` before it.
"""

import colorsys
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest
from PIL import Image
from pydantic.fields import FieldInfo
from server import USER, Server
from typer.main import get_command

from kit.cli import main  # noqa: F401  brings the verbs
from kit.cli.app import app
from kit.compress.pack import pack
from kit.config.competitions import COMPETITIONS
from kit.config.fields import Section
from kit.config.override import override, parse_value
from kit.config.recipes import RECIPES, recipe
from kit.config.schema import Config
from kit.config.terms import Term, Weighted
from kit.data.draw import draw_dataset
from kit.data.layout import find_dataset
from kit.errors import KitError
from kit.models.students import build_student, widths_of
from kit.studies.catalogue import STUDIES

CLONE = Path(__file__).parents[1]
DOCUMENTS = [CLONE / "README.md", CLONE / "CONTRIBUTING.md", *sorted((CLONE / "docs").rglob("*.md"))]
LANGUAGES = {"sh", "text", "python", "diff", "json"}
FENCE = re.compile(r"^(?:<!-- not tested: (?P<why>.+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
APPLY = "git apply -C1 --recount --unidiff-zero changes.diff"
QUOTED = re.compile(r"`([^`\n]+)`")
CITED = re.compile(r"\b([A-Z]\w+)(?: et al\.| and [A-Z]\w+)(?:, \"|\s+((?:19|20)\d\d)\b)")  # Park et al. 2019; Ba and Caruana, "Do …
KIT = get_command(app)


class Block(NamedTuple):
    document: Path
    language: str
    text: str
    why_not: str | None  # it is not run


def blocks(document: Path) -> list[Block]:
    return [Block(document, m["language"], m["text"], m["why"]) for m in FENCE.finditer(document.read_text(encoding="utf-8"))]


def commands(document: Path, all_of_them: bool = False) -> Iterator[str]:
    """The lines of a document's sh blocks that are run, those that go on joined, without their comments."""
    for block in blocks(document):
        if block.language == "sh" and (all_of_them or not block.why_not):
            lines = block.text.replace("\\\n", " ").splitlines()
            yield from (line for line in (re.sub(r"\s+# .*", "", line) for line in lines) if line)


def words_of(line: str) -> list[str] | None:
    """What comes after `kit`, where the line is a command of the kit's; else None."""
    words = shlex.split(line)
    return words[1:] if words and Path(words[0]).name == "kit" else None


def parse(words: list[str]) -> Any:
    """The verb's own parser takes the words, or raises; nothing is run."""
    verb = KIT.commands[words[0]]
    return verb.make_context(words[0], list(words[1:]))


def examples() -> Iterator[str]:
    """The commands that `--help` shows."""
    for verb in KIT.commands.values():
        yield from (quoted for quoted in QUOTED.findall(verb.epilog) if quoted.startswith("kit ") and "…" not in quoted)


def inline(document: Path) -> Iterator[str]:
    """`kit …` in running text, whole commands without placeholders."""
    for quoted in QUOTED.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if quoted.startswith(("kit ", ".venv/bin/kit ")) and "…" not in quoted:
            yield quoted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_fenced_block_says_what_it_is_and_every_command_is_in_one_of_sh(document):
    for block in blocks(document):
        assert block.language in LANGUAGES, block.text
        if block.language == "text":
            assert not re.search(r"^(\.venv/bin/|kit |make )", block.text, re.M), block.text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_the_kit_is_one_that_it_takes(document):
    for line in commands(document, all_of_them=True):
        if words := words_of(line):
            context = parse(words)
            if words[0] in ("run", "plan") and words[1] in RECIPES and document.name != "CONTRIBUTING.md":  # whose recipes need its changes
                override(recipe(context.params["name"]), context.params["assignments"] or [])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_verb_and_option_in_running_text_is_there(document):
    for quoted in inline(document):
        verb, *rest = words_of(quoted)
        if verb == "--install-completion":
            continue  # typer's own
        assert verb in KIT.commands, quoted
        known = {name for option in KIT.commands[verb].params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, quoted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", FENCE.sub("", document.read_text(encoding="utf-8"))):
        assert (document.parent / target).exists(), target


def test_the_index_names_every_document():
    index = (CLONE / "docs" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (CLONE / "docs").glob("*.md") if f"({path.name})" not in index and path.name != "README.md"] == []


def test_the_readmes_tree_has_every_module_and_package():
    tree = (CLONE / "README.md").read_text(encoding="utf-8").partition("## The tree")[2]
    rooms = [path.name + "/" * path.is_dir() for path in (CLONE / "kit").iterdir() if not path.name.startswith("__")]
    assert [room for room in rooms if room not in tree] == []


def settings(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field by the name that --set gives it. The teacher's views and training are a field each: they have the student's fields."""
    for name, info in section.model_fields.items():
        inside = [kind for kind in (info.annotation, *get_args(info.annotation)) if isinstance(kind, type) and issubclass(kind, Section)]
        if not inside or prefix == "teacher." or info.default is None:
            yield prefix + name, info
        if inside and prefix != "teacher.":
            yield from settings(inside[0], f"{prefix}{name}.")


def default_of(info: FieldInfo) -> Any:
    """As JSON has it, of a section what it says itself; numbers to four places."""
    if info.is_required():
        return "none"
    default = info.default.model_dump(exclude_unset=True) if isinstance(info.default, Section) else info.default
    return json.loads(json.dumps(default), parse_float=lambda number: round(float(number), 4))


def test_settings_has_every_field_of_a_recipe_with_its_default_and_choices():
    page = (CLONE / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = {name: (default, says) for name, default, says in re.findall(r"^\| `([\w.]+)` \| (?:`(.*?)`|none) \| (.*)$", page, re.M)}
    wanted = dict(settings(Config))
    assert [name for name in wanted if name not in rows] == [], "have no row"
    assert [name for name in rows if name not in wanted] == [], "are no field"
    assert {name: parse_value(default or "none") for name, (default, _) in rows.items()} == {n: default_of(i) for n, i in wanted.items()}
    kinds = [(name, kind) for name, info in wanted.items() for kind in (info.annotation, *get_args(info.annotation))]
    choices = [(name, one) for name, kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
    assert [(name, one) for name, one in choices if f"`{one}`" not in rows[name][1]] == []
    for name, rules in COMPETITIONS.items():
        row = page.partition(f"\n| `{name}` | ")[2].partition("\n")[0]
        assert row, name
        assert all(f"{number:,}" in row for number in (rules.max_parameters, rules.max_bytes, rules.rows) if number), name


def test_settings_has_every_term_with_the_defaults_of_its_own_fields():
    page = (CLONE / "docs" / "settings.md").read_text(encoding="utf-8").partition("| `loss` |")[2].partition("\n## ")[0]
    rows = {
        loss: {name: parse_value(value) for name, value in re.findall(r"`(\w+)=(.*?)`", fields)}
        for loss, fields in re.findall(r"^\| `([\w-]+)` \|(.*)$", page, re.M)
    }
    for term in get_args(get_args(Term)[0]):
        own = {name: default_of(info) for name, info in term.model_fields.items() if name not in (*Weighted.model_fields, "loss")}
        assert rows.pop(term.model_fields["loss"].default) == own
    assert rows == {}


def test_the_studies_table_says_how_many_arms_there_are_and_how_many_have_run():
    page = (CLONE / "docs" / "studies" / "README.md").read_text(encoding="utf-8")
    said = {}
    for names, counts in re.findall(r"^\| (\[`.*?) \| (\d.*?) \| ", page, re.M):
        said |= zip(re.findall(r"\[`(.*?)`\]", names), counts.split("; "), strict=True)
    for name, study in STUDIES.items():
        journal = (CLONE / "docs" / "studies" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        arms, run = len(study().arms), len({json.loads(line)["arm"] for line in journal})
        assert said.pop(name) == (f"{arms}" if run == arms else f"{arms}, of which {run} run so far"), name
    assert said == {}


def test_sources_names_every_paper_that_the_kit_cites():
    lines = (CLONE / "docs" / "sources.md").read_text(encoding="utf-8").splitlines()
    cited = {paper for path in (CLONE / "kit").rglob("*.py") for paper in CITED.findall(path.read_text(encoding="utf-8"))}
    assert len(cited) > 40
    assert [paper for paper in cited if not any(all(re.search(rf"\b{word}", line) for word in paper) for line in lines)] == []


def test_no_text_installs_another_kit():
    """The distribution is kaggle-submission-kit; `kit` alone is someone else's."""
    folders = ("docs", "kit", "kernels", "submissions")
    texts = [*CLONE.glob("*.*"), CLONE / "Makefile", *(path for folder in folders for path in (CLONE / folder).rglob("*"))]
    wrong = re.compile(r"(pip3?|uv|pipx|conda|poetry) (install|add|pip install)( -\S+)* ['\"]?kit\b")
    readable = [path for path in texts if path.is_file() and path.suffix in {".md", ".py", ".toml", ".txt", ".json", ".html", ""}]
    assert [path for path in readable if wrong.search(path.read_text(encoding="utf-8", errors="replace"))] == []


def test_what_troubleshooting_quotes_stands_in_the_kit():
    """The first column's quotes; `…` is what differs. A message that is written over several lines is joined."""
    said = "\n".join(path.read_text(encoding="utf-8") for path in (CLONE / "kit").rglob("*.py"))
    said = re.sub(r"\"\s*\n\s*(\+ \()?f?\"", "", said)
    rows = [line for line in (CLONE / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    missing = [
        part
        for row in rows
        for quoted in QUOTED.findall(row.split(" | ")[0])
        for part in re.split(r"\s*…\s*", quoted)
        if part and part not in said
    ]
    assert missing == []


def test_the_changes_that_contributing_shows_fit_the_kit_as_it_is(tmp_path):
    shutil.copytree(CLONE / "kit", tmp_path / "kit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "changes.diff").write_text(the_changes())
    done = subprocess.run(shlex.split(APPLY), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    look = "from kit.config.terms import Reverse; from kit.models.students import STUDENTS; from kit.studies.catalogue import STUDIES"
    look += "; print(STUDIES['warmup']().name, 'short' in STUDENTS)"
    done = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.stdout == "warmup True\n", done.stderr


# ── run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


SMALL = "data.image_size=32", "data.cache_size=32", "teacher.train.epochs=1"


class Leaving(Server):
    """A Kaggle whose sessions leave what a run in the clone has left, at once."""

    def __init__(self, left: Path):
        super().__init__()
        self.left = left

    def SaveKernel(self, body):
        answer = super().SaveKernel(body)
        kernel = self.kernels[body["slug"]]
        kernel.outputs[len(kernel.requests)], kernel.log = self.left, (self.left / "log.txt").read_text()
        return answer


class Clone:
    """A folder like a clone's, with photos in HW13's shape and two runs of them, where a document's commands run."""

    def __init__(self, root: Path):
        self.root, self.server = root, Leaving(root / "runs" / "record")

    def run(self, line: str) -> None:
        """A command of a document, which must succeed."""
        line = re.sub(r"\d{4}-\d\d-\d\d(?=-record)", time.strftime("%Y-%m-%d"), line).replace(" you/", f" {USER}/")
        if line.startswith("make "):
            line = f"make -n {line.removeprefix('make ')}"  # each is a step of `make ci`, or the whole of it
        elif words := words_of(line):
            line = shlex.join([".venv/bin/kit", *smaller(words)])
        self.shell(line)

    def shell(self, line: str) -> None:
        places = {"PYTHONPATH": str(self.root), "XDG_CACHE_HOME": str(self.root.parent / "cache")}
        how = {"cwd": self.root, "env": os.environ | self.server.environment | places, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], **how)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def smaller(words: list[str]) -> list[str]:
    """The same command on two epochs at 32 px, and what it makes no try."""
    verb, *rest = [re.sub(r"^train\.epochs=\d+", "train.epochs=2", word) for word in words]
    if verb in ("run", "study") and not {"--tiny", "--dry-run"} & set(rest):
        out = [] if "--out" in rest or verb == "study" else ["--out", f"runs/{Path(rest[0]).stem}"]  # where it goes without --tiny
        whole = ["--set", "trial=null"] if verb == "run" else []  # what comes after hands it in
        rest = [*rest, "--tiny", *whole, *out]
    small = [word for field in SMALL for word in ("--set", field)]
    more = {"plan": small, "study": ["--seeds", "1"], "bench": ["--rounds", "1", *small]}
    return [verb, *rest, *more.get(verb, [])]


def draw_eleven(folder: Path) -> Path:
    """Photos in HW13's shape, of eleven colours: seconds are enough to learn them. 2,218 to predict, most of them copies."""
    random = np.random.default_rng(0)
    for split, count in (("training", 440), ("validation", 66), ("evaluation", 66)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            colour = np.array(colorsys.hsv_to_rgb(i % 11 / 11, 1, 1 - 0.5 * (i % 2))) * 255
            photo = Image.fromarray((colour + random.normal(0, 20, (40, 40, 3))).clip(0, 255).astype(np.uint8))
            photo.save(folder / split / (f"{i:04d}.jpg" if split == "evaluation" else f"{i % 11}_{i // 11}.jpg"))
    for i in range(66, 2_218):
        shutil.copy(folder / "evaluation" / f"{i % 66:04d}.jpg", folder / "evaluation" / f"{i:04d}.jpg")
    return folder


@pytest.fixture(scope="module")
def whole_clone(tmp_path_factory) -> Path:
    """With a teacher beside the photos, and the runs that the documents speak of: `record` and `boss`."""
    root = tmp_path_factory.mktemp("whole") / "clone"
    for name in ("kit", "kernels", "submissions"):
        shutil.copytree(CLONE / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(CLONE / name, root)
    bin_folder = root / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, command in (("kit", [sys.executable, "-m", "kit"]), ("kaggle", [str(Path(sys.executable).with_name("kaggle"))])):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (bin_folder / name).chmod(0o755)
    draw_eleven(root / "Food-11")
    place = Clone(root)
    place.shell(".venv/bin/kit run boss --data Food-11 --tiny --set teacher.train.epochs=4 --out runs/teacher")
    (root / "runs" / "teacher" / "teacher.ckpt").rename(root / "Food-11" / "resnet18_teacher.ckpt")
    for name in ("record", "boss"):
        place.shell(f".venv/bin/kit run {name} --data Food-11 --tiny --set trial=null --out runs/{name}")
    place.server.close()
    return root


@pytest.fixture
def clone(whole_clone, tmp_path) -> Iterator[Clone]:
    shutil.copytree(whole_clone, tmp_path / "clone", copy_function=os.link)
    place = Clone(tmp_path / "clone")
    yield place
    place.server.close()


def begin_anew(clone: Clone) -> None:
    shutil.rmtree(clone.root / "runs")


def with_teachers(clone: Clone) -> None:
    for name in ("a.ckpt", "b.ckpt"):
        shutil.copy(clone.root / "Food-11" / "resnet18_teacher.ckpt", clone.root / name)
    shutil.copytree(clone.root / "runs" / "record", clone.root / "runs" / "assistant")


def with_names(clone: Clone) -> None:
    """Photos whose class stands in their names: `kind_7_0012.jpg`."""
    (clone.root / "unsorted").mkdir()
    for photo in (clone.root / "Food-11" / "training").iterdir():
        shutil.copy(photo, clone.root / "unsorted" / f"kind_{photo.name}")


def the_changes() -> str:
    return "".join(block.text for block in blocks(CLONE / "CONTRIBUTING.md") if block.language == "diff")


def with_the_changes(clone: Clone) -> None:
    """CONTRIBUTING's four changes made, and photos that two epochs are enough for: `kit check` refuses a student that knows nothing."""
    for file in re.findall(r"^--- a/(.+)$", the_changes(), re.M):
        place = clone.root / file
        text = place.read_bytes()
        place.unlink()  # it is a link to the one that other tests run
        place.write_bytes(text)
    (clone.root / "changes.diff").write_text(the_changes())
    clone.shell(APPLY)
    (clone.root / "photos").symlink_to("Food-11")


PREPARED = {
    "first-evening.md": begin_anew,
    "methods.md": with_teachers,
    "your-own-photos.md": with_names,
    "CONTRIBUTING.md": with_the_changes,
}


def test_labels_in_a_table_sort_photos_as_the_document_shows(tmp_path):
    draw_dataset(tmp_path / "drawn", splits={"training": 12, "validation": 6, "evaluation": 6})
    (tmp_path / "given").mkdir()
    (tmp_path / "drawn" / "evaluation").rename(tmp_path / "given" / "test_images")
    photos = (tmp_path / "drawn" / "training").rename(tmp_path / "given" / "train_images")
    rows = [f"{photo.name},kind/{photo.name.partition('_')[0]}" for photo in photos.iterdir()]
    (tmp_path / "given" / "train.csv").write_text("\n".join(["image_id,label", *rows]))
    with pytest.raises(KitError, match=r"labels are in .*train\.csv, docs/your-own-photos\.md"):
        find_dataset(tmp_path / "given", None, None, 0)
    shown = next(block.text for block in blocks(CLONE / "docs" / "your-own-photos.md") if "train.csv" in block.text)
    subprocess.run([sys.executable, "-c", shown], cwd=tmp_path, check=True)
    found = find_dataset(tmp_path / "mine", None, None, 0)
    assert (len(found.training), len(found.evaluation), found.classes[0]) == (12, 6, "kind-0")  # a folder's name holds no slash


def test_a_program_of_ones_own_asks_a_packed_student_as_the_document_shows(tmp_path, monkeypatch, capsys):
    config = recipe("record").tiny()
    student = build_student(config.student.name, (), 6).eval()
    (tmp_path / "runs" / "record").mkdir(parents=True)
    pack(tmp_path / "runs" / "record" / "student.kit", student, config, widths_of(student), tuple("abcdef"), {})
    draw_dataset(tmp_path / "drawn", splits={"training": 6, "validation": 6, "evaluation": 1})
    next((tmp_path / "drawn" / "evaluation").iterdir()).rename(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(next(block.text for block in blocks(CLONE / "docs" / "packed-file.md") if block.language == "python"), {})
    assert capsys.readouterr().out.strip() in set("abcdef")


@pytest.mark.long
@pytest.mark.parametrize("document", [one for one in DOCUMENTS if list(commands(one))], ids=lambda path: path.name)
def test_every_command_of_a_document_runs(document, clone):
    if prepare := PREPARED.get(document.name):
        prepare(clone)
    for line in commands(document):
        clone.run(line)


@pytest.mark.long
def test_every_example_that_help_shows_runs(clone):
    draw_dataset(clone.root.parent / "pets", splits={"training": 120, "validation": 60, "evaluation": 60})
    for line in examples():
        if "submit" in line:  # the second time it would be refused
            clone.server.submissions.clear()
            (clone.root / "submissions" / "ledger.csv").unlink(missing_ok=True)
        clone.run(line)


@pytest.mark.long
def test_real_photos_of_ones_own_go_the_same_way(clone, real):
    """Photos as cameras leave them, the class in their names; and CIFAR-10's class folders."""
    shutil.copytree(real / "photos512", clone.root / "unsorted")
    for line in list(commands(CLONE / "docs" / "your-own-photos.md"))[:6]:
        clone.run(line)
    assert len(list((clone.root / "mine" / "train").iterdir())) == 10
    clone.shell(f"mkdir cifar && tar xf {shlex.quote(str(real / 'cifar10_jpeg.tar.xz'))} -C cifar")
    clone.shell(".venv/bin/kit new small --data cifar")
    clone.shell(".venv/bin/kit run ./small.py --data cifar --tiny --subset 0.01")
