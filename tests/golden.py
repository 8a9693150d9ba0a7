"""The golden cases: what the published code computes, for weights and inputs drawn from their names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "data" / "golden"


def _load_seeded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_seeded", GOLDEN / "seeded.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


seeded = _load_seeded()


def load(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The settings and the results of golden case `name`."""
    settings = json.loads((GOLDEN / f"{name}.json").read_text())
    return settings, load_file(GOLDEN / f"{name}.safetensors")


def relative_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    """||out - ref|| / ||ref||, in float64."""
    out, ref = out.double().cpu(), ref.double().cpu()
    assert out.shape == ref.shape, f"{tuple(out.shape)} is not {tuple(ref.shape)}"
    return float((out - ref).norm() / ref.norm())
