"""The clock is set back and forward under a running daemon, and between two: what waits for a time waits no longer."""

from __future__ import annotations

import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from stock import Jobs
from system.instance import RENDER_STUB, Instance, wait_until

from atenea.clock import ClockWatch
from atenea.config import Config, Paths
from atenea.daemon import Daemon
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.retention import clean_up, doubt_ages, was_long_away

YEAR = 365 * 86_400.0

RUN = """
import sys, time
from pathlib import Path
real, moved = time.time, Path(sys.argv.pop(1))
time.time = lambda: real() + float(moved.read_text())
from atenea.__main__ import main
sys.exit(main())
"""

MOODY = (
    "@hookimpl\ndef tts(job, ctx):\n"
    "    import wave\n"
    "    tried = ctx.cache / 'tried'\n"
    "    if not tried.exists():\n"
    "        tried.touch()\n"
    "        raise TransientError('the moon is behind a cloud')\n"
    "    path = ctx.workdir / 'speech.wav'\n"
    "    with wave.open(str(path), 'wb') as wav:\n"
    "        wav.setparams((1, 2, 16000, 0, 'NONE', ''))\n"
    "        wav.writeframes(bytes(3200))\n"
    "    return path\n"
)

FAILING = "@hookimpl\ndef tts(job, ctx):\n    raise PermanentError('no voice today')\n"

CONFIG = "[tts]\nplugin = 'moody'\n[render]\nplugin = 'stub'\n[retry]\nfirst_seconds = 3\n"


class ClockedInstance(Instance):
    """The daemon's `time.time`, as if somebody had set the machine's clock, which other processes need."""

    def set_clock(self, seconds: float) -> None:
        new = self.folder / "moved.new"
        new.write_text(str(seconds))
        new.replace(self.folder / "moved")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", RUN, str(self.folder / "moved"), *arguments]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[ClockedInstance]:
    folder = tmp_path / "instance"
    folder.mkdir()
    made = ClockedInstance(folder, CONFIG)
    made.plugin("moody", MOODY)
    made.plugin("stub", RENDER_STUB)
    made.set_clock(0)
    yield made
    if made.process:
        made.stop(signal.SIGKILL)


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_the_clock_is_set_while_a_job_waits_for_its_retry(instance: ClockedInstance, seconds: float) -> None:
    instance.start()
    instance.drop("hello.txt", "Hello.")
    wait_until(lambda: instance.events("stage failed; it will be tried again"), "the failure")
    instance.set_clock(seconds)
    instance.drop("wake.txt", "Wake.")
    instance.output("hello.mp4")
    instance.output("wake.mp4")
    (told,) = instance.events("the clock was set; what waits for a time waits as long as before")
    assert told["seconds"] == pytest.approx(seconds, abs=1)
    assert {step["seconds"] < 60 for step in instance.job("hello")["steps"]} == {True}


def test_the_clock_is_set_back_while_no_daemon_runs(instance: ClockedInstance) -> None:
    instance.start()
    instance.drop("hello.txt", "Hello.")
    wait_until(lambda: instance.events("stage failed; it will be tried again"), "the failure")
    instance.stop()
    instance.set_clock(-YEAR)
    instance.start()
    instance.output("hello.mp4")


def kept(instance: ClockedInstance, name: str) -> bool:
    return (instance.folder / "state/jobs" / instance.job(name)["id"] / "original").exists()


def measured(instance: ClockedInstance) -> bool:
    """Whether what finished has been looked at, and so whether something is to be removed."""
    with closing(sqlite3.connect(instance.folder / "state" / LEDGER)) as db:
        return not db.execute("SELECT 1 FROM jobs WHERE finished IS NOT NULL AND bytes IS NULL").fetchone()


def test_a_clock_that_is_years_ahead_for_a_while_removes_nothing(instance: ClockedInstance) -> None:
    instance.plugin("moody", FAILING)
    instance.start()
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.error.txt")
    instance.wait_for_state("hello", "failed")
    instance.stop()
    for seconds in (3 * YEAR, 0):
        instance.set_clock(seconds)
        instance.start()
        wait_until(lambda: measured(instance), "the daemon to keep house")
        instance.stop()
        assert kept(instance, "hello")
    instance.plugin("moody", MOODY)
    instance.start()
    instance.atenea("retry", "hello")
    instance.output("hello.mp4")


class Time:
    """The machine's clock as the daemon's own code sees it in this process."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moved = 0.0
        real = time.time
        patch.setattr(time, "time", lambda: real() + self.moved)


def test_a_clock_that_is_set_far_is_believed_after_a_day(
    tmp_path: Path, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time(monkeypatch)
    config = Config(paths=Paths(state=tmp_path))
    failed = jobs.failed()
    (config.jobs / failed.id).mkdir(parents=True)
    daemon = Daemon(config, {})
    daemon._ledger, daemon._clock = db, ClockWatch()

    def removed() -> bool:
        daemon._notice_clock()
        clean_up(config, db, time.time())
        return not (config.jobs / failed.id).exists()

    for moved in (YEAR, 0.0, YEAR):
        clock.moved = moved
        assert not removed()
    daemon._clock.follow(86_300)  # which is how a day without another change looks
    clock.moved += 86_300
    assert not removed()
    daemon._clock.follow(200)
    clock.moved += 200
    assert removed()


def test_a_clock_that_was_doubted_while_ahead_is_not_doubted_for_years(
    tmp_path: Path, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Time(monkeypatch)
    config = Config(paths=Paths(state=tmp_path))
    failed = jobs.failed()
    (config.jobs / failed.id).mkdir(parents=True)
    clock.moved = YEAR
    assert was_long_away(db)
    doubt_ages(db)
    clock.moved = 86_400
    assert not was_long_away(db)
    clean_up(config, db, time.time())
    assert db.clock_doubted_until == pytest.approx(time.time() + 86_400, abs=60)


def test_small_corrections_are_left_alone_until_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    real, moved = time.time, 0.0
    monkeypatch.setattr("atenea.clock.time.time", lambda: real() + moved)
    watch = ClockWatch()
    moved = 1.5
    assert watch.set_by() == 0
    moved = 3.0
    assert watch.set_by() == pytest.approx(3, abs=0.5)
    watch.follow(watch.set_by())
    assert watch.set_by() == 0


def test_what_is_finished_keeps_its_times(db: Ledger, jobs: Jobs) -> None:
    done = jobs.failed("done")
    waits = jobs.planned("waits")
    step = db.steps(waits.id)[waits.position]
    db.try_again(jobs.begin(waits), waits, step, error="later", until=time.time() + 10, died=False)
    before = jobs.now(waits)
    db.follow_clock(-1000)
    after = jobs.now(waits)
    assert (after.created, after.not_before) == (before.created - 1000, before.not_before - 1000)
    assert jobs.now(done) == done
