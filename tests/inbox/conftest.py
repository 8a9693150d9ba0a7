import os
import subprocess
import threading
from pathlib import Path

import pytest

from atenea import durable
from atenea.inbox.scan import Candidate, Scanner
from atenea.inbox.taken import TakenRow


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class StandInLedger:
    """What taking needs of the ledger. It outlives the crashes that tests make."""

    def __init__(self) -> None:
        self.rows: dict[str, TakenRow] = {}
        self.unfinished: set[str] = set()
        self.commits = 0
        self.ids = 0
        self.past_changes: set[str] = set()

    def new_ids(self, count):
        self.ids += count
        return [f"{number:06}" for number in range(self.ids - count, self.ids)]

    def add_taken(self, rows):
        assert not {row.job_id for row in rows} & set(self.rows)
        self.commits += 1
        self.rows |= {row.job_id: row for row in rows}
        self.unfinished |= {row.job_id for row in rows if row.copied}

    def knows(self, job_id):
        return job_id in self.rows

    def unfinished_copies(self):
        return [self.rows[job_id] for job_id in sorted(self.unfinished)]

    def copy_finished(self, job_id):
        self.unfinished.discard(job_id)

    def is_past_changes(self, job_id):
        return job_id in self.past_changes


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger():
    return StandInLedger()


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def settled():
    """A function that gives the jobs of an inbox as if they had settled."""

    def find(inbox: Path, presets=()) -> list[Candidate]:
        scanner = Scanner(inbox, presets, 0, report=lambda sentence: None)
        scanner.scan()
        return sorted(scanner.scan().settled, key=lambda candidate: candidate.relative)

    return find


@pytest.fixture
def other_mount(tmp_path):
    """An empty folder on another file system than `tmp_path`."""
    folder = tmp_path / "mount"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode
    if mounted != 0:
        shared = Path("/dev/shm")
        if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system to be had")
        folder = shared / f"atenea-{os.getpid()}"
        folder.mkdir()
    yield folder
    if mounted == 0:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        subprocess.run(["rm", "-r", str(folder)], check=True)


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Syncing has tests of its own, and no file here meets a power cut."""
    monkeypatch.setattr(durable, "_fsync", lambda path, flags: None)
    monkeypatch.setattr(durable, "_syncfs", lambda fd: 0)


@pytest.fixture(autouse=True)
def no_leaks():
    """Fails a test that leaves threads or descriptors behind."""
    threads = set(threading.enumerate())
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
