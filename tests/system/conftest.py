"""Instances for the tests, whose daemons end with them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.instance import Instance, NewInstance


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[NewInstance]:
    """Makes instances, and ends their daemons after the test."""
    instances: list[Instance] = []

    def make(config: str = "", **environment: str) -> Instance:
        folder = tmp_path / f"instance-{len(instances)}"
        folder.mkdir()
        instances.append(Instance(folder, config, environment))
        return instances[-1]

    yield make
    for instance in instances:
        if instance.process:
            instance.stop(signal.SIGKILL)
