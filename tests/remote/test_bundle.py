"""A bundle is what Kaggle runs, so it runs here as it would there: a file alone, in a process that knows no repository."""

import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from kit.data.draw import draw_dataset
from kit.errors import KitError
from kit.remote.bundle import LIMIT, bundle, notebook, pack
from kit.remote.metadata import kernel_folder

HEAD = """
import kit
from kit.config.recipes import recipe
from kit.config.override import override
from kit.remote.kernel import session

if __name__ == "__main__":
    import torch_pruning

    print(kit.__file__, torch_pruning.__file__, sep="\\n", flush=True)
    config = override(recipe("sample").tiny(), ["teacher.train.epochs=12", "train.epochs=20"])
    session(config)
"""


class Finished(NamedTuple):
    folder: Path
    code: int
    output: str

    @property
    def record(self) -> dict:
        return json.loads((self.folder / "working" / "run.json").read_text())


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    return bundle(kernel_with(HEAD, tmp_path_factory.mktemp("clone")))


@pytest.fixture(scope="module")
def first(script, tmp_path_factory) -> Finished:
    """A session that is told to stop when its student has learned for an epoch."""
    folder = tmp_path_factory.mktemp("first")
    draw_photos(folder / "input" / "photos")
    return run_alone(script, folder, stop_after="distil 1/20")


def kernel_with(head: str, folder: Path) -> Path:
    kernel = folder / "kernels" / "test"
    kernel.mkdir(parents=True)
    (kernel / "main.py").write_text(head)
    return kernel


def draw_photos(folder: Path) -> None:
    """Validation is training again: a teacher that has seen sixty photos for seconds knows no others, and the pipeline refuses guessers."""
    draw_dataset(folder, splits={"training": 60, "evaluation": 12})
    shutil.copytree(folder / "training", folder / "validation")


def run_alone(script: Path, folder: Path, stop_after: str | None = None) -> Finished:
    """Run a bundle in `folder`, where input/ is; its home and its temporary disk are there too."""
    shutil.copy(script, folder / "script.py")
    places = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": os.environ["PATH"], "KIT_KAGGLE": "."}
    places |= {"OMP_NUM_THREADS": "1"}  # so little work is done no sooner by two, and much later where other tests keep the cores busy
    command = [sys.executable, "script.py"]
    with subprocess.Popen(command, cwd=folder, env=places, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if stop_after and line.startswith(stop_after):
                process.send_signal(signal.SIGTERM)
    return Finished(folder, process.returncode, "".join(lines))


def test_equal_sources_give_equal_bytes(script, tmp_path):
    again = bundle(kernel_with(HEAD, tmp_path))
    assert again.read_bytes() == script.read_bytes()


def test_a_bundle_says_nothing_of_the_day_and_the_order_in_which_it_was_made():
    entries = zipfile.ZipFile(io.BytesIO(lzma.decompress(pack({"b.py": b"2", "a.py": b"1"})))).infolist()
    assert [(entry.filename, entry.date_time) for entry in entries] == [(name, (1980, 1, 1, 0, 0, 0)) for name in ("a.py", "b.py")]


def test_the_budget_counts_from_a_bundles_first_line(script):
    statements = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert "KIT_SESSION_STARTED" in statements[0]


def test_a_bundle_is_far_from_its_limit(script):
    assert script.stat().st_size < LIMIT / 2


@pytest.mark.slow
def test_a_bundle_runs_alone_with_the_packages_it_carries(first):
    assert first.code == 0, first.output
    places = first.output.splitlines()[:2]
    assert all(Path(place).is_relative_to(first.folder) for place in places), places
    assert first.record["versions"]["torch-pruning"]


@pytest.mark.slow
def test_a_session_that_is_ended_leaves_a_submission(first):
    assert first.record["state"] == "suspended", first.output
    rows = (first.folder / "working" / "submission.csv").read_text().splitlines()
    assert len(rows) == 1 + 12
    assert "<section" in (first.folder / "working" / "report.html").read_text()


@pytest.mark.slow
def test_workers_leave_one_unpacked_package_and_nothing_half_done(first):
    unpacked = [path for path in first.folder.iterdir() if path.name.startswith((".kit-", "kit-"))]
    assert len(unpacked) == 1
    assert (unpacked[0] / "kit" / "pipeline.py").is_file()


@pytest.mark.slow
def test_an_earlier_output_is_taken_over_and_gone_on_with(script, first, tmp_path):
    draw_photos(tmp_path / "input" / "competitions" / "photos")
    earlier = tmp_path / "input" / "notebooks" / "someone" / "kit-test"
    shutil.copytree(first.folder / "working", earlier)
    second = run_alone(script, tmp_path)
    assert second.code == 0, second.output
    assert "going on from input/notebooks/someone/kit-test" in second.output
    assert "distil: going on from step" in second.output
    assert second.record["state"] == "done"
    assert len(second.record["sessions"]) == 2
    assert "teacher: 12 epochs" not in second.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("asks", [True, False])
def test_a_session_that_asked_for_a_gpu_and_got_none_ends_at_once(asks, tmp_path):
    kernel = kernel_with("print('the head runs')\n", tmp_path)
    (kernel / "kernel-metadata.json").write_text(json.dumps({"enable_gpu": asks}))
    around = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    at_home = around | {"KIT_KAGGLE": "."}
    done, rehearsed = (
        subprocess.run([sys.executable, bundle(kernel)], env=places, capture_output=True, text=True, timeout=120)
        for places in (around, at_home)
    )
    assert (done.returncode, "This session has no GPU" in done.stderr) == (int(asks), asks)
    assert rehearsed.stdout == "the head runs\n"


def test_a_notebook_holds_the_same_in_cells_that_run(tmp_path, monkeypatch):
    """The loader's cell and the head's, one after the other, as Jupyter runs them."""
    head = '"""What it does."""\n\nimport kit.version\n\nfound = kit.version.__file__\n'
    page = json.loads(notebook(kernel_with(head, tmp_path)).read_text())
    assert [cell["cell_type"] for cell in page["cells"]] == ["markdown", "code", "code"]
    assert "What it does." in "".join(page["cells"][0]["source"])
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    cells = "\n".join("".join(cell["source"]) for cell in page["cells"][1:])
    text = f"{cells}\nprint(found)\n"
    done = subprocess.run([sys.executable, "-"], input=text, env=places, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(str(tmp_path)), done.stderr


@pytest.mark.parametrize("variable", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
def test_a_credential_of_the_environment_is_refused_unsaid(variable, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, "not-a-real-credential")
    with pytest.raises(KitError, match=variable) as refusal:
        bundle(kernel_with('key = "not-a-real-credential"\n', tmp_path))
    assert "not-a-real" not in str(refusal.value)


def test_a_credential_of_kaggle_json_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    (tmp_path / "kaggle.json").write_text(json.dumps({"username": "someone", "key": "not-a-real-credential"}))
    with pytest.raises(KitError, match=r"kaggle\.json"):
        bundle(kernel_with('key = "not-a-real-credential"\n', tmp_path))


@pytest.mark.parametrize(
    ("head", "reason"),
    [("from __future__ import annotations\n", "from __future__"), ("def\n", "invalid syntax"), (f"data = '{'x' * LIMIT}'\n", "1,000,000")],
)
def test_a_head_that_kaggle_could_not_run_is_refused(head, reason, tmp_path):
    with pytest.raises(KitError, match=reason):
        bundle(kernel_with(head, tmp_path))


def test_a_head_that_is_not_in_utf8_is_named(tmp_path):
    kernel = kernel_with(HEAD, tmp_path)
    (kernel / "main.py").write_bytes("name = 'Käse'\n".encode("latin-1"))
    with pytest.raises(KitError, match=r"main\.py can't be bundled, it is not in UTF-8 \(.*\): save it so"):
        bundle(kernel)


def test_a_kernel_that_is_not_there_is_answered_with_those_that_are(tmp_path, monkeypatch):
    kernel_with(HEAD, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert kernel_folder("test") == Path("kernels/test")
    with pytest.raises(KitError, match=r"There is no kernels/recrod/main.py\. Kernels here: test\."):
        kernel_folder("recrod")
