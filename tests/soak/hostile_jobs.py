"""Hostile input at length: mutated job files, a daemon that gets thousands, exchanged files, damaged media.

SOAK_JOB_FILES, SOAK_DAEMON_JOBS, SOAK_SWAPS and SOAK_MEDIA say how many of each; SOAK_SEED repeats a run's draws.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest
from faults import test_hostile_media, test_hostile_paths
from faults.mutations import mutated_job_file, mutated_text
from faults.refusals import assert_is_a_refusal, assert_is_an_answer
from faults.test_hostile_jobs import CONFIG
from faults.test_hostile_media import test_damaged_pictures_are_pictures_or_refused as test_pictures
from faults.test_hostile_media import test_damaged_sounds_are_sounds_or_refused as test_sounds
from faults.test_hostile_paths import beyond, inbox, ledger
from faults.test_hostile_paths import test_a_rest_that_is_exchanged_for_a_link as test_rests
from faults.test_hostile_paths import test_named_files_that_are_exchanged_while_they_are_copied as test_named_files
from faults.test_hostile_paths import test_what_is_exchanged_while_it_is_taken as test_taking
from system.conftest import new_instance
from system.instance import RENDER_STUB, NewInstance, wait_until

from atenea.errors import MistakesError
from atenea.jobfile import parse_job_toml

__all__ = ["beyond", "inbox", "ledger", "new_instance"]
__all__ += ["test_named_files", "test_pictures", "test_rests", "test_sounds", "test_taking"]

JOB_FILES = int(os.environ.get("SOAK_JOB_FILES", "100000"))
DAEMON_JOBS = int(os.environ.get("SOAK_DAEMON_JOBS", "3000"))
SEED = int(os.environ.get("SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
BATCH = 250
MOST_SECONDS = 1.0


@pytest.fixture(autouse=True)
def at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tests as `make test` has, with more of everything."""
    monkeypatch.setattr(test_hostile_paths, "ROUNDS", int(os.environ.get("SOAK_SWAPS", "500")))
    monkeypatch.setattr(test_hostile_media, "MUTATIONS", int(os.environ.get("SOAK_MEDIA", "20000")))


def test_every_job_file_is_a_job_or_a_refusal(record_property: Callable[[str, object], None]) -> None:
    draw = random.Random(SEED)
    came: Counter[str] = Counter()
    longest = 0.0
    for _ in range(JOB_FILES):
        data = mutated_job_file(draw)
        began = time.thread_time()
        try:
            parse_job_toml(data, "a.toml")
            came["keys"] += 1
        except MistakesError as error:
            assert_is_a_refusal(error, "a.toml")
            came["refusals"] += 1
        took = time.thread_time() - began
        assert took < MOST_SECONDS, data
        longest = max(longest, took)
    print(
        f"\n{JOB_FILES:,} mutated job files: {came['keys']:,} are jobs, {came['refusals']:,} are refused "
        f"with key or line, each within {longest * 1000:.0f} ms of processor time (SOAK_SEED={SEED})"
    )
    record_property("Every job file", (JOB_FILES, "mutated files"))
    record_property("Every job file", f"at most {longest * 1000:.0f} ms of processor time each")


def test_a_running_daemon_answers_every_file(
    new_instance: NewInstance, record_property: Callable[[str, object], None]
) -> None:
    instance = new_instance(CONFIG)
    instance.plugin("stub", RENDER_STUB)
    instance.start()
    assert instance.process
    process, draw = instance.process.pid, random.Random(SEED)
    came: Counter[str] = Counter()
    for first in range(0, DAEMON_JOBS, BATCH):
        stems = [f"hostile-{number}" for number in range(first, min(first + BATCH, DAEMON_JOBS))]
        for number, stem in enumerate(stems):
            is_text = number % 20 == 0
            data = mutated_text(draw) if is_text else mutated_job_file(draw)
            instance.drop(f"{stem}.{'txt' if is_text else 'toml'}", data)
        for stem in stems:
            answers = [instance.outbox / f"{stem}{suffix}" for suffix in (".mp4", ".error.txt")]
            wait_until(lambda paths=answers: any(path.exists() for path in paths), stem)  # type: ignore[misc]
            if answers[0].exists():
                came["videos"] += 1
            else:
                assert_is_an_answer(answers[1].read_text(), stem)
                came["refusals"] += 1
    assert instance.process.pid == process
    assert instance.stop() == 0
    assert not [entry for entry in instance.events() if entry["level"] == "critical"]
    died = [entry for entry in instance.events("job finished") if "worker" in str(entry.get("error", ""))]
    assert died == []
    print(
        f"\n{DAEMON_JOBS:,} hostile files in one running daemon: {came['videos']:,} videos, "
        f"{came['refusals']:,} refusals, no worker died (SOAK_SEED={SEED})"
    )
    record_property("Every job file", (DAEMON_JOBS, "through a running daemon"))
