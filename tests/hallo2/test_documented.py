"""The snippet of docs/reference.md that uses the engine alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from face_networks import astronaut
from tiny_bundle import TINIEST, make_tiny_bundle

from atenea.testing import write_speech

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
SMALLER = {'"cuda"': '"cpu"', "torch.float16": "torch.float32", "size=512": "size=64", "steps=40": "steps=1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "models", TINIEST)


def test_it_makes_a_video(models, tmp_path, monkeypatch):
    [code] = re.findall(r"```python\n(.*?hallo2.*?)```", REFERENCE.read_text(), re.DOTALL)
    for there, here in SMALLER.items():
        assert there in code
        code = code.replace(there, here)
    (tmp_path / "models").symlink_to(models)
    astronaut().save(tmp_path / "ana.png")
    write_speech(tmp_path / "hello.wav", 0.7)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(code, made)
    assert made["video"].shape == (18, 64, 64, 3)
    assert made["video"].dtype == torch.uint8
