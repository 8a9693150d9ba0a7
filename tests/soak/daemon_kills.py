"""The daemon is killed at random moments, again and again, while jobs of all kinds arrive: each is done exactly once.

SOAK_KILLS, 500 if it is not set, is how often; there are two jobs for five kills. Half of the kills come at any moment,
the others at a step of taking, of recovery or of publishing. SOAK_SEED repeats the draws of a run that printed it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from faults.daemon_kills import KINDS, Ordeal

KILLS = int(os.environ.get("SOAK_KILLS", "500"))
SEED = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
STAGES = ("intake", "tts", "audio", "render", "mux", "post", "publish")
STEPS = {
    False: ("taking: mkdir", "taking: renameat2", "taking: fsync", "taking: commit add_taken"),
    True: ("taking: open", "taking: renameat2", "taking: fsync", "taking: commit add_taken", "taking: unlink"),
}
PUBLISHING = ("link", "fsync", "commit publish", "renameat2", "commit finish")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["one file system", "the inbox on another"])
def test_every_job_is_done_exactly_once(tmp_path: Path, other_file_system: Path, elsewhere: bool) -> None:
    print(f"\nSOAK_SEED={SEED}")
    kills = KILLS // 2
    jobs = max(len(KINDS), kills * 2 // 5)
    folder = tmp_path / "instance"
    folder.mkdir()
    with Ordeal(folder, jobs, random.Random(SEED), other_file_system if elsewhere else None) as ordeal:
        ordeal.suffer(kills)
        ordeal.end()
    for hit, count in sorted(ordeal.hits.items()):
        print(f"{count:5} {hit}")
    print(f"{ordeal.kills} kills, {jobs} jobs: each done exactly once, nothing left over")
    wanted = {*STAGES, *STEPS[elsewhere], *(f"publishing: {call}" for call in PUBLISHING)}
    assert kills < 200 or wanted <= ordeal.hits.keys(), wanted - ordeal.hits.keys()
