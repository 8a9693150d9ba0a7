"""Instances that tell what they were given to speak."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from system.conftest import new_instance
from system.instance import Instance
from wild.tools import SLOW_SETTLING, wild

__all__ = ["new_instance"]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One running instance for all tests of a module, which use different names."""
    yield from _running(tmp_path_factory)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The same, but files settle later than any pause of a writer, on a busy machine too."""
    yield from _running(tmp_path_factory, settle=SLOW_SETTLING)


def _running(folders: pytest.TempPathFactory, **watch: float) -> Iterator[Instance]:
    instance = wild(lambda config: Instance(folders.mktemp("instance"), config), **watch).start()
    yield instance
    if instance.process:
        instance.stop(signal.SIGKILL)
