"""Stops taking before each of its system calls and commits, then recovers: every job is there once, and whole."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from atenea import durable
from atenea.inbox.taking import Taker

PRESETS = {"news"}
CONTENT = {
    "a.txt": "text a",
    "a.png": "picture a",
    "b.toml": "toml b",
    "c/job.toml": "toml c",
    "c/deep/er/voice.wav": "voice c",
    "news/a.TXT": "text of news",
    "news/a.webp": "picture of news",
    "news/d/job.toml": "toml of d",
    "news/d/x.png": "picture of d",
    "news/job.toml": "toml in a preset",
}
JOBS = ["a.txt", "b.toml", "c", "news/a.TXT", "news/d", "news/job.toml"]
_COUNTED = {"mkdir", "link", "unlink", "rmdir", "rename", "fsync", "write", "utime", "open"}


class Crash(BaseException):
    """The process ends here."""


class Machine:
    """`os` for `durable`, which stops before call number `crash_at`; nothing has any effect after that."""

    def __init__(self, crash_at: int | None) -> None:
        self.left = crash_at
        self.trace: list[str] = []

    def step(self, name: str) -> None:
        self.trace.append(name)
        if self.left is not None:
            if self.left <= 0:
                raise Crash
            self.left -= 1

    def __getattr__(self, name):
        function = getattr(os, name)
        if name not in _COUNTED:
            return function

        def called(*args, **kwargs):
            if name != "open" or args[1] & os.O_CREAT:
                self.step(name)
            return None if name == "fsync" else function(*args, **kwargs)

        return called


class MachineLedger:
    """The ledger, with a step before and after each commit."""

    def __init__(self, ledger, machine) -> None:
        self._ledger = ledger
        self._machine = machine

    def __getattr__(self, name):
        function = getattr(self._ledger, name)
        if name not in {"add_taken", "copy_finished"}:
            return function

        def called(*args):
            self._machine.step(name)
            function(*args)
            self._machine.step(f"{name} done")

        return called


def real_rename(*args):
    return _REAL_RENAME(*args)


def rename_from_elsewhere(src_fd, src, dst_fd, dst, flags):
    """As if the inbox were another mount, where copied files can be put away."""
    return _REAL_RENAME(src_fd, src, dst_fd, dst, flags) if b"/.atenea-" in dst or src_fd < 0 else errno.EXDEV


_REAL_RENAME = durable._renameat2
_REAL_FSYNC = durable._fsync
RENAMES = {
    "rename": real_rename,
    "link": lambda *_: errno.EINVAL,
    "copy": rename_from_elsewhere,
}


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: these tests make and remove tens of thousands of files."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="atenea-", dir=shared) as folder:
        yield Path(folder)


@pytest.fixture(params=sorted(RENAMES))
def run(request, monkeypatch, inbox, state, ledger, settled):
    """A function that takes what is in the inbox, or stops at a step; it returns the steps made."""

    def run(crash_at=None, *, recover_only=False):
        machine = Machine(crash_at)

        def rename(*args):
            if RENAMES[request.param] is not RENAMES["link"]:
                machine.step("renameat2")
            return RENAMES[request.param](*args)

        taker = Taker(inbox, state, PRESETS, MachineLedger(ledger, machine), report=complaints.append)
        complaints.clear()
        with monkeypatch.context() as patch:
            patch.setattr(durable, "os", machine)
            patch.setattr(durable, "_renameat2", rename)
            patch.setattr(durable, "_fsync", _REAL_FSYNC)
            patch.setattr(durable, "_syncfs", lambda fd: machine.step("syncfs") or 0)
            try:
                taker.recover()
                if not recover_only:
                    taker.take(settled(inbox, PRESETS))
            except Crash:
                assert crash_at is not None
                return None
        return machine.trace

    complaints = run.complaints = []
    return run


def fill(inbox, files):
    for path in files:
        (inbox / path).parent.mkdir(parents=True, exist_ok=True)
        (inbox / path).write_text(CONTENT[path])


def files_in(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def check_between(inbox, state, ledger):
    """After recovery each job is in the inbox or in the ledger, and nothing else is anywhere."""
    found = files_in(inbox)
    for job_id, row in ledger.rows.items():
        original = files_in(state / "jobs" / job_id / "original")
        assert not set(found) & set(original), "a job is in both places"
        found |= original
        assert row.relative in JOBS
    assert sorted(path.name for path in (state / "jobs").iterdir()) == sorted(ledger.rows)
    assert sorted(row.relative for row in ledger.rows.values()) == sorted(
        {row.relative for row in ledger.rows.values()}
    )
    return found


def check_end(inbox, state, ledger, files):
    assert check_between(inbox, state, ledger) == {path: CONTENT[path] for path in files}
    assert files_in(inbox) == {}
    assert ledger.unfinished == set()
    for job_id, row in ledger.rows.items():
        assert sorted(os.listdir(state / "jobs" / job_id)) == ["original"]
        assert row.preset == ("news" if row.relative.startswith("news/") else None)


def reset(inbox, state, ledger):
    durable.remove_tree(inbox)
    durable.remove_tree(state)
    inbox.mkdir()
    state.mkdir()
    ledger.__init__()


CASES = {
    "text with picture": ["a.txt", "a.png"],
    "folder": ["c/job.toml", "c/deep/er/voice.wav"],
    "preset": ["news/a.TXT", "news/a.webp", "news/job.toml"],
    "all": sorted(CONTENT),
}


@pytest.mark.parametrize("case", CASES)
def test_one_crash_anywhere(run, inbox, state, ledger, case):
    files = CASES[case]
    crash_at, trace = 0, None
    while trace is None:
        reset(inbox, state, ledger)
        fill(inbox, files)
        trace = run(crash_at)
        if trace is None:
            run(recover_only=True)
            assert check_between(inbox, state, ledger) == {path: CONTENT[path] for path in files}
            run()
        assert run.complaints == []
        check_end(inbox, state, ledger, files)
        crash_at += 1
    assert crash_at == len(trace) + 1


@pytest.mark.parametrize("files", [["a.txt", "a.png"], ["news/d/job.toml", "news/d/x.png"]], ids=["text", "folder"])
def test_a_crash_in_the_recovery_from_a_crash(run, inbox, state, ledger, files):
    fill(inbox, files)
    steps = len(run())
    for first in range(steps):
        second = 0
        recovered = False
        while not recovered:
            reset(inbox, state, ledger)
            fill(inbox, files)
            run(first)
            recovered = run(second, recover_only=True) is not None
            run(recover_only=True)
            assert check_between(inbox, state, ledger) == {path: CONTENT[path] for path in files}
            run()
            assert run.complaints == []
            check_end(inbox, state, ledger, files)
            second += 1


def test_what_is_dropped_again_after_the_crash_counts(run, inbox, state, ledger):
    """While the daemon is down the same names come again: no file is lost but the picture that was replaced."""
    fill(inbox, ["a.txt", "a.png"])
    steps = len(run())
    for crash_at in range(steps):
        reset(inbox, state, ledger)
        fill(inbox, ["a.txt", "a.png"])
        run(crash_at)
        for name in ("a.txt", "a.png"):
            (inbox / "new").write_text(f"new {name}")
            (inbox / "new").rename(inbox / name)
        run()
        originals = [files_in(state / "jobs" / job_id / "original") for job_id in sorted(ledger.rows)]
        assert originals[-1] == {"a.txt": "new a.txt", "a.png": "new a.png"}
        assert originals[:-1] in ([], [{"a.txt": "text a", "a.png": "picture a"}])
        assert files_in(inbox) == {}
