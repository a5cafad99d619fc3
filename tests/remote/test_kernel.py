"""What a kernel finds and takes when it starts, and the folders that are pushed."""

import json
from pathlib import Path

import pytest
from slugify import slugify  # what the Kaggle client makes slugs with

from kit.config.recipes import recipe
from kit.config.schema import Config, override
from kit.errors import KitError
from kit.remote.kernel import session, take_over

KERNELS = sorted(path.parent for path in (Path(__file__).parents[2] / "kernels").glob("*/main.py"))
FIELDS = {
    "id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape",
    "dataset_sources", "competition_sources", "kernel_sources", "model_sources", "keywords", "docker_image", "docker_image_pinning_type",
}  # fmt: skip


def leave_output(folder: Path, config: Config, started: str) -> None:
    """What a session leaves, as far as finding it goes."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "distil-000000007-0123456789abcdef.pt").write_bytes(b"weights")
    record = {"recipe": config.recipe, "config": config.model_dump(mode="json"), "sessions": [{"started": started}]}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "__results__.html").write_text("Kaggle's own")


@pytest.mark.parametrize("mount", ["kit-record", "notebooks/someone/kit-record"])
def test_an_output_is_found_wherever_it_is_mounted(mount, tmp_path):
    leave_output(tmp_path / "input" / mount, recipe("record"), "2025-01-01 00:00:00")
    assert take_over(recipe("record"), tmp_path / "input", tmp_path / "working") == tmp_path / "input" / mount
    left = {path.relative_to(tmp_path / "working").as_posix() for path in (tmp_path / "working").rglob("*.*")}
    assert left == {"run.json", "checkpoints/distil-000000007-0123456789abcdef.pt"}


def test_the_newest_of_several_outputs_is_taken(tmp_path):
    leave_output(tmp_path / "input" / "a", recipe("record"), "2025-01-02 09:00:00")
    leave_output(tmp_path / "input" / "b", recipe("record"), "2025-01-03 08:00:00")
    leave_output(tmp_path / "input" / "c", recipe("record"), "2025-01-01 10:00:00")
    assert take_over(recipe("record"), tmp_path / "input", tmp_path / "working") == tmp_path / "input" / "b"


def test_a_run_that_is_in_the_working_folder_is_left_as_it_is(tmp_path):
    leave_output(tmp_path / "input" / "later", recipe("record"), "2025-01-03 00:00:00")
    leave_output(tmp_path / "working", recipe("record"), "2025-01-01 00:00:00")
    before = (tmp_path / "working" / "run.json").read_bytes()
    assert take_over(recipe("record"), tmp_path / "input", tmp_path / "working") is None
    assert (tmp_path / "working" / "run.json").read_bytes() == before


def test_an_output_of_another_config_stops_the_session_before_it_costs_hours(tmp_path):
    leave_output(tmp_path / "input" / "kit-record", recipe("record"), "2025-01-01 00:00:00")
    with pytest.raises(KitError, match=r"train\.epochs: 600 → 700"):
        take_over(override(recipe("record"), ["train.epochs=700"]), tmp_path / "input", tmp_path / "working")
    assert not (tmp_path / "working").exists()


def test_other_recipes_and_strangers_files_are_passed_over(tmp_path):
    leave_output(tmp_path / "input" / "kit-boss", recipe("boss"), "2025-01-01 00:00:00")
    for name, text in (("list", "[1]"), ("broken", "{"), ("other", '{"recipe": "record"}')):
        (tmp_path / "input" / name / "checkpoints").mkdir(parents=True)
        (tmp_path / "input" / name / "run.json").write_text(text)
    assert take_over(recipe("record"), tmp_path / "input", tmp_path / "working") is None


def test_a_refusal_ends_the_script_with_one_paragraph(tmp_path):
    (tmp_path / "input").mkdir()
    with pytest.raises(SystemExit, match="error: No data set below"):
        session(recipe("sample"), inputs=tmp_path / "input", working=tmp_path / "working")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_head_is_short_enough_to_read(kernel):
    lines = (kernel / "main.py").read_text().splitlines()
    assert len(lines) <= 40
    assert any(line.startswith('if __name__ == "__main__":') for line in lines)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_metadata_leaves_nothing_to_a_default(kernel):
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    assert metadata.keys() == FIELDS
    assert metadata["id"].split("/")[1] == slugify(metadata["title"])
    assert len(metadata["title"]) >= 5
    assert metadata["code_file"] == "build/main.py"
    assert (metadata["is_private"], metadata["enable_internet"]) == (True, False)
