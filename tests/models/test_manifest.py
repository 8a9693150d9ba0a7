"""What is fetched, and what the documentation says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atenea.models.manifest import COMMIT, PARTS, REPOSITORY, Part, wanted_paths

PAGE = (Path(__file__).parents[2] / "docs/models.md").read_text()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_is_documented(part: Part) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| [{part.name}]({part.origin}) |"))
    assert f"| {part.licence} |" in row
    assert [path for path in part.paths if f"`{path}`" not in row] == []


def test_nothing_else_is_documented() -> None:
    paths = {path for part in PARTS for path in part.paths}
    assert {name for name in re.findall(r"`([\w/.-]+)`", PAGE) if name.endswith((".onnx", ".pth", ".task"))} <= paths


def test_the_pin_is_documented() -> None:
    assert re.fullmatch("[0-9a-f]{40}", COMMIT)
    assert f"https://huggingface.co/{REPOSITORY}/tree/{COMMIT}" in PAGE


def test_paths_are_of_the_published_bundle() -> None:
    folders = {"hallo2", "sd-vae-ft-mse", "wav2vec", "face_analysis", "audio_separator"}
    assert {path.split("/")[0] for path in wanted_paths(vocals=True)} == folders
    assert set(wanted_paths(vocals=True)) - set(wanted_paths()) == {"audio_separator/Kim_Vocal_2.onnx"}
