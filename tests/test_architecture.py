"""The house: an import points to a lower floor, rooms on one floor don't know each other."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import kit

FLOORS = [
    {"errors", "events", "rng", "duration", "files", "console", "config", "device", "fuse", "names", "processes", "version", "world"},
    {"data", "augment", "models"},
    {"distill", "compress"},
    {"train"},
    {"predict", "submission", "ledger", "session", "takeover", "answers", "target"},
    {"stages"},
    {"report"},
    {"pipeline", "score", "inspection", "export", "compression", "gallery", "draft", "bench"},
    {"remote", "plan", "studies"},
    {"doctor"},
    {"cli"},
    {"__main__"},
]
GROUND = FLOORS[0]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
ROOT = Path(kit.__path__[0])
CLONE = ROOT.parent
OPTIONAL = {"optuna", "ray", "onnx", "onnxruntime", "tensorboard"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports():
    """(importing room, imported room, file) for every import of the package inside itself."""
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.module != "kit" else [f"kit.{alias.name}" for alias in node.names]
            yield from ((room, room_of(name), path) for name in names if name.startswith("kit."))


def test_every_room_has_a_floor():
    rooms = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.name not in ("__init__.py", "__pycache__")}
    assert rooms == FLOOR.keys()


def test_imports_point_downwards_and_neighbours_are_strangers():
    wrong = [
        f"{path.relative_to(ROOT)}: {here} imports {there}"
        for here, there, path in imports()
        if here != there and FLOOR[there] >= FLOOR[here] and not (here in GROUND and there in GROUND)
    ]
    assert wrong == []


def test_package_inits_are_empty():
    assert [p for p in ROOT.rglob("__init__.py") if p.read_text()] == []


@pytest.mark.parametrize(("words", "needed"), [(["--help"], set()), (["ledger", "--no-fetch"], {"numpy", "pandas"})])
def test_a_verb_waits_for_no_library_that_it_does_not_need(words, needed, tmp_path):
    """`kit --help` and the shell's completion take a third of a second; torch alone takes two."""
    heavy = {"torch", "timm", "numpy", "pandas", "sklearn", "cv2", "matplotlib", "kaggle"}
    (tmp_path / "kit").mkdir()
    (tmp_path / "submissions").mkdir()
    (tmp_path / "submissions" / "ledger.csv").write_text("submission,csv_sha256\nold-1,00ff\n")
    tell = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from kit.cli.main import main; main()"
    said = subprocess.run([sys.executable, "-c", tell, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert heavy & set(said.stdout.split()) == needed


def pinned():
    """The packages that requirements.txt names."""
    return set(re.findall(r"^([a-z0-9-]+)==", (CLONE / "requirements.txt").read_text(), re.M))


def test_what_is_imported_is_pinned_or_comes_with_what_is():
    modules = {
        name.split(".")[0]
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or "kit"])
    }
    come_along = {
        re.split(r"[^\w-]", need)[0].lower() for package in pinned() for need in requires(package) or [] if "extra ==" not in need
    }
    strangers = modules - set(sys.stdlib_module_names) - OPTIONAL - {"kit"}
    installed = packages_distributions()
    sources = {module: {name.lower() for name in installed.get(module, [])} for module in strangers}
    assert {module: names for module, names in sources.items() if not names & (pinned() | come_along)} == {}


def test_every_dependency_has_its_line_in_the_design():
    section = (CLONE / "docs" / "design.md").read_text(encoding="utf-8").partition("## Dependencies")[2].partition("\n## ")[0]
    named = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", section, re.M) for name in row.split(",")}
    assert pinned() <= named
    assert all(name in section for name in OPTIONAL)
