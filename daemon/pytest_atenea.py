"""Fixtures for the tests of atenea's plugins. pytest loads this wherever atenea is installed.

A module outside of `atenea` that imports nothing of it before a test asks for a fixture: that would take longer than
people want to wait whose tests have nothing to do with it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from atenea.testing import JobResult, StageResult


@pytest.fixture
def atenea_stage(tmp_path: Path) -> Callable[..., StageResult]:
    """`atenea.testing.run_stage`, with the test's own folder."""
    from atenea.testing import run_stage  # noqa: PLC0415 - see above

    return partial(run_stage, folder=tmp_path / "stages")


@pytest.fixture
def atenea_job(tmp_path: Path) -> Callable[..., JobResult]:
    """`atenea.testing.run_job`, with the test's own folder."""
    from atenea.testing import run_job  # noqa: PLC0415 - see above

    return partial(run_job, folder=tmp_path)
