"""Runs a shipped plugin's hooks without the daemon around them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from atenea import Context, Job, PluginOptions, StageSettings
from atenea.testing import write_speech

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture(scope="session")
def load_plugin():
    """Load a plugin file under a private name, so that `openai.py` does not stand in the way of `openai`."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"_atenea_test_{name}", PLUGINS / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        # pydantic and dataclasses look their module up.
        import sys

        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def make_context(tmp_path):
    """A context as the worker gives it; `stage` keeps the work folders of one test apart."""

    def make(plugin: ModuleType, *, stage: str = "stage", on_progress=lambda fraction, text: None, **options: Any):
        workdir, cache = tmp_path / stage, tmp_path / "cache"
        workdir.mkdir(exist_ok=True)
        cache.mkdir(exist_ok=True)
        return Context(
            workdir=workdir,
            cache=cache,
            options=getattr(plugin, "Options", PluginOptions)(**options),
            log=structlog.get_logger(),
            on_progress=on_progress,
        )

    return make


@pytest.fixture
def make_job():
    def make(text: str | None = None, **settings: Any) -> Job:
        return Job(
            id="1",
            name="job",
            text=text,
            audio=StageSettings(plugin="wav"),
            render=StageSettings(plugin="preview"),
            **settings,
        )

    return make


@pytest.fixture
def make_wav(tmp_path):
    """A 16 kHz WAV with so many samples, whose level comes and goes like speech."""

    def make(samples: int, name: str = "speech.wav") -> Path:
        return write_speech(tmp_path / name, samples / 16000)

    return make
