"""Under load the daemon holds what it held before, and with a long history it does no more than with a short one."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.crowd import Holding, crowd
from faults.history import fill
from stock import Jobs
from system.instance import wait_until

from atenea.config import Config, Paths
from atenea.ledger import Ledger
from atenea.queue_desk import NotRunning, QueueDesk
from atenea.retention import clean_up, folder_size
from atenea.status_line import status_line

SHORT, LONG = 2_000, 40_000
"""Finished jobs in the two histories: more than are ever looked at, and many more."""

KEPT = 200
"""Finished jobs whose folders are kept: the size limit bounds them, whatever the history is."""

ROUND = 40
"""Jobs in each of three rounds through a daemon."""

MIB = 2**20


class Watched:
    """A ledger with a history and a queue, and what SQLite does for it."""

    def __init__(self, folder: Path, finished: int) -> None:
        folder.mkdir()
        fill(folder / "ledger.sqlite3", finished, KEPT)
        self.ledger = Ledger(folder / "ledger.sqlite3")
        self.jobs = Jobs(self.ledger)
        self.config = Config(paths=Paths(inbox=folder / "inbox", outbox=folder / "outbox", state=folder))
        for number in range(30):
            self.jobs.planned(f"queued-{number}")

    def instructions(self, work: Callable[[Watched], object]) -> int:
        """How many of its machine's instructions, in tens, SQLite needs for some work."""
        count = 0

        def tick() -> None:
            nonlocal count
            count += 1

        self.ledger._db.set_progress_handler(tick, 10)
        work(self)
        self.ledger._db.set_progress_handler(None, 10)
        return count

    def statements(self, work: Callable[[Watched], object]) -> list[str]:
        """What it is asked meanwhile."""
        asked: list[str] = []
        self.ledger._db.set_trace_callback(asked.append)
        work(self)
        self.ledger._db.set_trace_callback(None)
        return [statement for statement in asked if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)", statement)]

    def plan(self, statement: str) -> list[str]:
        """How SQLite finds the rows of a statement."""
        return [row["detail"] for row in self.ledger._rows(f"EXPLAIN QUERY PLAN {statement}")]

    def desk(self, command: str, **arguments: object) -> dict[str, object]:
        return QueueDesk(self.config, self.ledger, NotRunning()).answer(command, arguments)


def schedule(watched: Watched) -> None:
    """What the daemon asks whenever something has happened."""
    ledger = watched.ledger
    assert not ledger.paused
    for needs in ledger.wanted_needs():
        assert ledger.ready(needs, time.time(), 4)
    assert ledger.next_due(time.time()) is None
    assert ledger.counts() == {"queued": 30}


def pass_through(watched: Watched) -> None:
    """All that is entered of a job that is done."""
    jobs = watched.jobs
    job = jobs.to_publish("new")
    watched.ledger.publish(job, stem="new", hashes={".mp4": "h"})
    assert jobs.finish(job).state == "done"


def fail_and_retry(watched: Watched) -> None:
    jobs, ledger = watched.jobs, watched.ledger
    job = jobs.planned("failing")
    step = ledger.steps(job.id)[1]
    ledger.try_again(jobs.begin(job), job, step, error="busy", until=0, died=True)
    ledger.give_up(jobs.begin(job), job, error="it broke", details="", died=False)
    job = jobs.finish(job, "failed")
    ledger.retry(job)
    ledger.cancel(jobs.now(job))


def look_for_late(watched: Watched) -> None:
    now = watched.ledger.refused_lately()
    assert [job.state for job in now] == ["failed"] * len(now)
    assert not watched.ledger.has_stem("nobody")
    assert watched.ledger.unfinished_copies() == []


def tell(watched: Watched) -> None:
    assert status_line({}, watched.ledger) == "idle; 30 waiting"


def list_jobs(watched: Watched) -> None:
    answer = watched.desk("jobs", limit=20)
    assert len(answer["jobs"]) == 50  # type: ignore[arg-type]


def show_job(watched: Watched) -> None:
    assert watched.desk("show", job="job-17")["state"] == "done"


def find_taken(watched: Watched) -> None:
    watched.desk("taken", device=7, inode=1234)


def keep_house(watched: Watched) -> None:
    assert not clean_up(watched.config, watched.ledger, time.time())


def restart(watched: Watched) -> None:
    watched.ledger.cut_short()
    assert watched.ledger._value("SELECT max(id) FROM jobs")


HOT = (
    *(schedule, pass_through, fail_and_retry, look_for_late, tell),
    *(list_jobs, show_job, find_taken, keep_house, restart),
)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Watched]]:
    """A short and a long one."""
    folder = tmp_path_factory.mktemp("histories")
    both = Watched(folder / "short", SHORT), Watched(folder / "long", LONG)
    yield both
    for watched in both:
        watched.ledger.close()


@pytest.mark.parametrize("work", HOT, ids=lambda work: work.__name__)
def test_a_long_history_costs_no_more_than_a_short_one(
    histories: tuple[Watched, Watched], work: Callable[[Watched], object]
) -> None:
    short, long = (history.instructions(work) for history in histories)
    assert 0 < long <= 1.05 * short + 5


@pytest.mark.parametrize("work", HOT, ids=lambda work: work.__name__)
def test_no_table_is_read_from_end_to_end(
    histories: tuple[Watched, Watched], work: Callable[[Watched], object]
) -> None:
    long = histories[1]
    found = {line for statement in long.statements(work) for line in long.plan(statement)}
    assert found
    assert [line for line in found if re.match(r"SCAN (jobs|steps|attempts)\b(?! USING)", line)] == []


def test_the_write_ahead_log_shrinks_after_a_reader_that_hung(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    journal = tmp_path / "ledger.sqlite-wal"
    job = jobs.planned()
    reader = sqlite3.connect(f"file:{tmp_path}/ledger.sqlite?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    for _ in range(20):
        db.try_again(jobs.begin(job), job, db.steps(job.id)[1], error="x" * MIB, until=0, died=False)
    assert journal.stat().st_size > 20 * MIB
    assert reader.execute("SELECT failures FROM steps WHERE position = 1").fetchone() == (0,)  # it sees what it saw
    reader.close()
    for _ in range(2):
        db.pause(False)
    assert journal.stat().st_size <= 16 * MIB


def test_many_jobs_leave_the_daemon_as_it_was(tmp_path: Path) -> None:
    with crowd(tmp_path / "load") as load:
        load.pass_through(ROUND)
        before = load.processes()
        load.pass_through(ROUND)
        load.pass_through(ROUND)
        outputs = [name for name in load.instance.outputs() if name.endswith(".mp4")]
        assert sorted(outputs) == sorted(f"job-{number}.mp4" for number in range(3 * ROUND))
        # One that just ends a conversation holds a little more.
        wait_until(lambda: descriptors(load.processes()) == descriptors(before), f"descriptors as in {before}")
        after = load.processes()
        assert max(after[pid].memory - before[pid].memory for pid in before) < 4 * MIB

        load.instance.stop()
        folders = load.state / "jobs"
        limit = kept(folders) / 3
        with (load.instance.folder / "atenea.toml").open("a") as config:
            config.write(f"\n[retention]\nmax_gigabytes = {limit / 1e9}\n")
        load.instance.start()
        wait_until(lambda: 0 < kept(folders) <= limit, "the oldest folders to go")


def kept(folders: Path) -> int:
    """Bytes that the folders of jobs take."""
    return sum(map(folder_size, folders.iterdir()))


def descriptors(held: dict[str, Holding]) -> dict[str, int]:
    """The number of each process's."""
    return {pid: holding.descriptors for pid, holding in held.items()}
