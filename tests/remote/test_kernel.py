"""A kernel's session, and the folders that are pushed."""

import json
from pathlib import Path

import pytest
from slugify import slugify  # what the Kaggle client makes slugs with

from kit.config.recipes import recipe
from kit.remote.kernel import session

KERNELS = sorted(path.parent for path in (Path(__file__).parents[2] / "kernels").glob("*/main.py"))
FIELDS = {
    "id", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape",
    "dataset_sources", "competition_sources", "kernel_sources", "model_sources", "keywords", "docker_image", "docker_image_pinning_type",
}  # fmt: skip


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
