"""The daemon is killed at random moments, again and again, while jobs of all kinds arrive: each is done exactly once.

SOAK_KILLS, 500 if it is not set, is how often; there are two jobs for five kills. Half of the kills come at any moment,
the others at a stage or a step of taking, of recovery or of publishing. SOAK_SEED repeats the draws of a run that
printed it.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from faults.daemon_kills import KINDS, Ordeal

KILLS = int(os.environ.get("SOAK_KILLS", "500"))
SEED = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
ENOUGH = 200
"""So many kills come to every step of one half."""


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "the inbox on another"])
def test_every_job_is_done_exactly_once(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
    elsewhere: bool,
) -> None:
    print(f"\nSOAK_SEED={SEED}")
    inbox = request.getfixturevalue("other_file_system") if elsewhere else None
    kills = KILLS // 2
    jobs = max(len(KINDS), kills * 2 // 5)
    folder = tmp_path / "instance"
    folder.mkdir()
    with Ordeal(folder, jobs, random.Random(SEED), inbox) as ordeal:
        ordeal.suffer(kills)
        ordeal.end()
    for line in table({step: ordeal.hits[step] for step in (*ordeal.steps, *sorted(ordeal.hits))}):
        print(line)
    print(f"{ordeal.kills} kills, {jobs} jobs: each done exactly once, nothing left over")
    record_property("is killed while jobs keep arriving", (ordeal.kills, "kills"))
    record_property("is killed while jobs keep arriving", (jobs, "jobs"))
    assert kills < ENOUGH or set(ordeal.steps) <= ordeal.hits.keys(), set(ordeal.steps) - ordeal.hits.keys()


def table(hits: Mapping[str, int]) -> Iterable[str]:
    """A line for each stage and each call, with the kills at the first of that name in a sequence, the second, ..."""
    lines: dict[str, list[str]] = defaultdict(list)
    for step, count in hits.items():
        is_call = ":" in step
        lines[step.rpartition(" ")[0] if is_call else step].append(str(count))
    return (f"{', '.join(counts):>40}  {call}" for call, counts in lines.items())
