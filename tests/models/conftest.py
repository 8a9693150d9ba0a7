"""A hub on this machine, and the command that asks it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from models.command import Command
from models.hub_server import FakeHub, serve

from atenea.models.manifest import wanted_paths


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub that has the bundle."""
    with serve() as server:
        yield server


@pytest.fixture
def command(hub: FakeHub, tmp_path: Path) -> Command:
    """The command, with that hub for the public one."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
    environment.pop("HF_HUB_OFFLINE", None)
    return Command(tmp_path, environment)


@pytest.fixture
def filled(hub: FakeHub, command: Command) -> Path:
    """A models folder with the right files in it, and no lock."""
    for path in wanted_paths():
        target = command.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(hub.files[path])
    return command.folder
