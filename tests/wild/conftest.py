"""Instances that tell what they were given to speak."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from system.conftest import new_instance
from system.instance import Instance
from wild.tools import wild

__all__ = ["new_instance"]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One running instance for all tests of a module, which use different names."""

    def make(config: str) -> Instance:
        return Instance(tmp_path_factory.mktemp("instance"), config)

    instance = wild(make).start()
    yield instance
    if instance.process:
        instance.stop(signal.SIGKILL)
