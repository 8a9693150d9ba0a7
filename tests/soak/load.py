"""A crowd of jobs through one daemon that has a long history: at the end it holds what it held at the beginning.

SOAK_JOBS, 50,000 if it is not set, is how many; SOAK_HISTORY, 1,000,000, how many finished before. A reader of the
ledger hangs for a fifth of the jobs, and what is in the outbox is taken away, as whoever it is for does.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.crowd import Crowd, Holding, crowd

from atenea.config import load_config
from atenea.control import ask
from atenea.ledger_file import LEDGER
from atenea.retention import folder_size

JOBS = int(os.environ.get("SOAK_JOBS", "50000"))
HISTORY = int(os.environ.get("SOAK_HISTORY", "1000000"))
WAITING = 100
"""Jobs in the queue, as nearly as it goes."""

LIMIT = 40_000_000
"""Bytes that finished jobs may leave behind: of about two thousand."""

WORKING = 120_000
"""Bytes that a job takes at most while it waits, runs, or waits to be looked at."""

MINUTE = 60
WARM, HANGS, GOES = JOBS // 10, JOBS * 2 // 5, JOBS * 3 // 5
"""After so many jobs memory is measured for the first time, and the reader comes and goes.

Memory must stay level before it comes and after it went. Meanwhile the index of the write-ahead log grows with every
page that is written: by 5 MiB for 10,000 jobs, which stay mapped to the end.
"""

MIB = 2**20
PATIENCE_SECONDS = 120.0


@dataclass
class Seen:
    """What was seen while the jobs went by."""

    videos: Counter[str] = field(default_factory=Counter)
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
            seen.videos[name] += 1
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


Record = Callable[[str, object], None]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Crowd]:
    """A running daemon with a long history, whose finished jobs may leave little behind."""
    with crowd(tmp_path / "load", f"[retention]\nmax_gigabytes = {LIMIT / 1e9}\n", history=HISTORY) as running:
        yield running


def test_many_jobs(load: Crowd, record_property: Record) -> None:
    print()
    seen = Seen()
    ledger_before = (load.state / LEDGER).stat().st_size
    began = time.monotonic()
    reader: sqlite3.Connection | None = None
    measured = began
    for finished in rounds(load, seen):
        look(load, seen, finished)
        if reader is None and finished > HANGS:
            reader = hang(load)
        if reader and finished > GOES:
            reader.close()
        if time.monotonic() > measured + 10:
            measured = time.monotonic()
            seen.kept.append(folder_size(load.state / "jobs"))
            print(f"{finished / (measured - began):4.1f} a second; {holdings_after(seen, finished)}")
    seconds = time.monotonic() - began
    load.settle(JOBS)
    look(load, seen, JOBS)

    assert seen.videos == Counter(f"job-{number}.mp4" for number in range(JOBS))
    record_property("Every job becomes one video", (JOBS, "jobs"))
    record_property("Every job becomes one video", f"none missing, none twice, {JOBS / seconds:.1f} a second")
    answers = [1000 * answer for answer in seen.answers]
    record_property(
        "A long history",
        f"`jobs` answers in {statistics.median(answers):.1f} ms with {HISTORY:,} finished before, in the median of"
        f" {len(answers):,} times; in {max(answers):.0f} ms at most",
    )
    tell_holdings(seen, record_property)
    tell_disk(load, seen, JOBS / seconds, ledger_before, record_property)


def tell_holdings(seen: Seen, tell: Record) -> None:
    """The memory and descriptors of each process that was there from the first tenth of the jobs to the end."""
    for moment in (WARM, HANGS, GOES, JOBS):
        tell("Memory and descriptors", holdings_after(seen, moment))
    for begin, end in ((WARM, HANGS), (GOES, JOBS)):
        first, last = held_after(seen, begin), held_after(seen, end)
        assert first.keys() == last.keys()  # no worker had to be replaced
        assert max(last[pid].memory - first[pid].memory for pid in first) < 8 * MIB
    first = held_after(seen, WARM)
    assert all(last[pid].descriptors <= first[pid].descriptors + 2 for pid in first)


def held_after(seen: Seen, jobs: int) -> dict[str, Holding]:
    """What each process held when so many jobs had gone by."""
    return next(held for finished, held in seen.holdings if finished >= jobs)


def holdings_after(seen: Seen, jobs: int) -> str:
    """The same as text, the control process first."""
    held = held_after(seen, jobs).values()
    memory = " + ".join(f"{one.memory / MIB:.1f}" for one in held)
    return f"after {jobs:,} jobs {memory} MiB, {' + '.join(str(one.descriptors) for one in held)} descriptors"


def tell_disk(load: Crowd, seen: Seen, each_second: float, ledger_before: int, tell: Record) -> None:
    """What the state folder, the ledger and the logs have become."""
    kept, log = folder_size(load.state / "jobs"), load.instance.log.stat().st_size
    left = len(os.listdir(load.state / "jobs"))
    most = LIMIT + (WAITING + 2 * MINUTE * each_second) * WORKING
    tell(
        "Finished jobs stay within",
        f"limit {LIMIT / 1e6:.0f} MB; with those that waited and the last minute's at most"
        f" {max(seen.kept, default=kept) / 1e6:.0f} MB, {kept / 1e6:.0f} MB in {left:,} folders at the end",
    )
    assert max(seen.kept, default=kept) < most
    with closing(sqlite3.connect(load.state / LEDGER)) as ledger:
        pages = ledger.execute("PRAGMA page_count").fetchone()[0] * ledger.execute("PRAGMA page_size").fetchone()[0]
    tell(
        "Finished jobs stay within",
        f"{(pages - ledger_before) / JOBS:,.0f} bytes a job in the ledger,"
        f" {log / JOBS:,.0f} in the log; the write-ahead log held at most {max(seen.journal) / MIB:.0f} MiB, while a"
        f" reader hung, and {seen.journal[-1] / MIB:.1f} MiB at the end",
    )
    assert seen.journal[-1] <= 17 * MIB
