"""A crowd of jobs through one daemon that has a long history: at the end it holds what it held at the beginning.

SOAK_JOBS, 5,000 if it is not set, is how many; SOAK_HISTORY, 1,000,000, how many finished before. A reader of the
ledger hangs for a fifth of the time, and what is in the outbox is taken away, as whoever it is for does.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.crowd import Crowd, Holding, crowd

from atenea.config import load_config
from atenea.control import LEDGER, ask
from atenea.retention import folder_size

JOBS = int(os.environ.get("SOAK_JOBS", "5000"))
HISTORY = int(os.environ.get("SOAK_HISTORY", "1000000"))
WAITING = 100
"""Jobs in the queue, as nearly as it goes."""

LIMIT = 40_000_000
"""Bytes that finished jobs may leave behind: of about two thousand."""

WORKING = 120_000
"""Bytes that a job takes at most while it waits, runs, or waits to be looked at."""

MINUTE = 60
WARM = 10
"""Which part of the jobs is over before memory is measured for the first time: one in so many."""

MIB = 2**20
PATIENCE_SECONDS = 120.0


@dataclass
class Seen:
    """What was seen while the jobs went by."""

    videos: list[str] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    journal: list[int] = field(default_factory=list)
    holdings: list[tuple[int, dict[str, Holding]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def collect(outbox: Path, seen: Seen) -> None:
    """Take the videos from the outbox, as whoever they are for does."""
    for name in os.listdir(outbox):
        if name.startswith("."):
            continue
        if name.endswith(".mp4"):
            seen.videos.append(name)
        if name.endswith(".error.txt"):
            seen.failed.append((outbox / name).read_text())
        if not name.endswith(".json") or (outbox / name).with_suffix(".mp4").name in seen.videos:
            (outbox / name).unlink()


def rounds(load: Crowd, seen: Seen) -> Iterator[int]:
    """Drop jobs as others finish, until all are; how many are finished, about once a second."""
    instance = load.instance
    dropped, moved = 0, time.monotonic()
    while len(seen.videos) < JOBS:
        before = len(seen.videos)
        collect(instance.outbox, seen)
        assert seen.failed == []
        moved = time.monotonic() if len(seen.videos) > before else moved
        assert time.monotonic() < moved + PATIENCE_SECONDS, instance.log.read_text()[-5000:]
        more = min(JOBS - dropped, WAITING - (dropped - len(seen.videos)))
        load.drop(more)
        dropped += more
        yield len(seen.videos)
        time.sleep(1)


def look(load: Crowd, seen: Seen, finished: int) -> None:
    """Note what the daemon holds, and how soon it answers."""
    config = load_config(load.instance.folder / "atenea.toml")
    began = time.perf_counter()
    ask(config, "jobs")
    seen.answers.append(time.perf_counter() - began)
    seen.journal.append((load.state / f"{LEDGER}-wal").stat().st_size)
    seen.holdings.append((finished, load.processes()))


def hang(load: Crowd) -> sqlite3.Connection:
    """A reader that does not come to its end."""
    reader = sqlite3.connect(f"file:{load.state / LEDGER}?mode=ro", uri=True, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM settings").fetchone()
    return reader


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Crowd]:
    """A running daemon with a long history, whose finished jobs may leave little behind."""
    with crowd(tmp_path / "load", f"[retention]\nmax_gigabytes = {LIMIT / 1e9}\n", history=HISTORY) as running:
        yield running


def test_many_jobs(load: Crowd) -> None:
    seen = Seen()
    ledger_before = (load.state / LEDGER).stat().st_size
    began = time.monotonic()
    reader: sqlite3.Connection | None = None
    measured = began
    for finished in rounds(load, seen):
        look(load, seen, finished)
        if reader is None and finished > JOBS * 2 // 5:
            reader = hang(load)
        if reader and finished > JOBS * 3 // 5:
            reader.close()
        if time.monotonic() > measured + 10:
            measured = time.monotonic()
            seen.kept.append(folder_size(load.state / "jobs"))
    seconds = time.monotonic() - began
    load.settle(JOBS)
    look(load, seen, JOBS)

    assert sorted(seen.videos) == sorted(f"job-{number}.mp4" for number in range(JOBS))
    print(
        f"\nevery job once: {JOBS:,} jobs, {len(seen.videos):,} videos, none missing, none twice, {len(seen.failed)}"
        f" errors; {seconds:.0f} s, {JOBS / seconds:.1f} a second: 50,000 in {50_000 * seconds / JOBS / 60:.0f} minutes"
    )
    tell_holdings(seen)
    tell_disk(load, seen, JOBS / seconds, ledger_before)
    answers = [1000 * answer for answer in seen.answers]
    print(
        f"answers: {len(answers)} times `jobs` under load with {HISTORY:,} finished before: median"
        f" {statistics.median(answers):.1f} ms, slowest {max(answers):.0f} ms"
    )


def tell_holdings(seen: Seen) -> None:
    """The memory and descriptors of each process that was there from the first tenth of the jobs to the end."""
    warm = next(holdings for finished, holdings in seen.holdings if finished >= JOBS // WARM)
    last = seen.holdings[-1][1]
    assert warm.keys() == last.keys()  # no worker had to be replaced
    growth = [last[pid].memory - warm[pid].memory for pid in warm]
    for part in (JOBS // WARM, JOBS // 2, JOBS):
        at = next(holdings for finished, holdings in seen.holdings if finished >= part)
        told = ", ".join(f"{one.memory / MIB:.1f} MiB" for one in at.values())
        print(f"memory after {part:,} jobs: {told} (control process, then workers)")
    most = max(one.descriptors for _, holdings in seen.holdings for one in holdings.values())
    print(
        f"descriptors: {[one.descriptors for one in warm.values()]} after {JOBS // WARM:,} jobs,"
        f" {[one.descriptors for one in last.values()]} at the end, never more than {most}"
    )
    assert max(growth) < 8 * MIB
    assert all(last[pid].descriptors <= warm[pid].descriptors + 2 for pid in warm)


def tell_disk(load: Crowd, seen: Seen, each_second: float, ledger_before: int) -> None:
    """What the state folder, the ledger and the logs have become."""
    kept, log = folder_size(load.state / "jobs"), load.instance.log.stat().st_size
    left = len(os.listdir(load.state / "jobs"))
    most = LIMIT + (WAITING + 2 * MINUTE * each_second) * WORKING
    print(
        f"retention: finished jobs may leave {LIMIT / 1e6:.0f} MB; with those that waited and the last minute's the"
        f" folders of jobs held at most {max(seen.kept, default=kept) / 1e6:.0f} MB, {kept / 1e6:.0f} MB at the end"
        f" in {left:,} folders"
    )
    assert max(seen.kept, default=kept) < most
    with closing(sqlite3.connect(load.state / LEDGER)) as ledger:
        pages = ledger.execute("PRAGMA page_count").fetchone()[0] * ledger.execute("PRAGMA page_size").fetchone()[0]
    print(
        f"disk: {(pages - ledger_before) / JOBS:,.0f} bytes a job in the ledger,"
        f" {log / JOBS:,.0f} in the log; the write-ahead log held at most {max(seen.journal) / MIB:.0f} MiB, while a"
        f" reader hung, and {seen.journal[-1] / MIB:.1f} MiB at the end"
    )
    assert seen.journal[-1] <= 17 * MIB
