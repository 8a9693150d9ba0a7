"""A daemon is killed a few times while jobs of all kinds arrive; `make soak` does it hundreds of times."""

from __future__ import annotations

import random
from pathlib import Path

from faults.daemon_kills import KINDS, Ordeal


def test_every_job_is_done_exactly_once(tmp_path: Path) -> None:
    with Ordeal(tmp_path, len(KINDS), random.Random(4)) as ordeal:
        ordeal.suffer(3)
        ordeal.end()
    assert ordeal.kills == 3
