"""The daemon's own bookkeeping of the steps that run; the whole of it is tested in `system`."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from stock import Jobs

from atenea.config import Config, Paths
from atenea.daemon import Daemon
from atenea.errors import UsageError
from atenea.ledger import Ledger
from atenea.progress_files import ProgressFiles
from atenea.rests import Rests


def test_a_step_that_is_cancelled_before_its_first_line_is_over_too(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    daemon = Daemon(Config(paths=Paths(state=tmp_path)), {})

    async def start_and_stop() -> None:
        daemon._ledger, daemon._wake = db, asyncio.Event()
        daemon._start(job)
        daemon.stop_step(job.id)
        assert daemon.progress(job.id) is not None
        await asyncio.wait_for(daemon._wake.wait(), 5)

    asyncio.run(start_and_stop())
    assert daemon.progress(job.id) is None
    assert jobs.now(job).state == "cancelled"


def test_a_cancel_that_cannot_be_entered_at_the_start_is_tried_again(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    db.cancel_later(job)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / job.id).touch()  # in the place of its folder: no record can be written
    now = 0.0
    daemon = Daemon(Config(paths=Paths(state=tmp_path)), {})
    daemon._ledger, daemon._rests = db, Rests(lambda: now)
    daemon._take_over()
    assert not jobs.now(job).is_final
    assert not daemon._may_start(job)
    assert "Not a directory" in (daemon.trouble(job.id) or "")
    (tmp_path / "jobs" / job.id).unlink()
    daemon._finish_cancelling()
    assert not jobs.now(job).is_final  # it rests
    now = daemon._rests.next_end() or 0.0
    daemon._finish_cancelling()
    assert jobs.now(job).state == "cancelled"
    db.retry(jobs.now(job))
    daemon._finish_cancelling()
    assert daemon._may_start(jobs.now(job))


def test_steps_that_fail_together_begin_one_rest() -> None:
    rests = Rests(lambda: 0.0)
    for _ in range(4):
        rests.begin("cpu", "no process")
    assert rests.next_end() == 1


def test_an_outbox_that_may_not_be_read_is_told_in_a_sentence(
    tmp_path: Path, db: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    config = Config(paths=Paths(outbox=tmp_path))
    daemon = Daemon(config, {})
    daemon._ledger, daemon._progress_files = db, ProgressFiles(config, db)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=f"^{tmp_path}: cannot be tidied: Permission denied; see "):
        daemon._recover()


def test_the_folder_for_assets_is_made_like_the_others(tmp_path: Path) -> None:
    (tmp_path / "assets").touch()
    daemon = Daemon(Config(paths=Paths().under(tmp_path)), {})
    with pytest.raises(UsageError, match=f"^{tmp_path}/assets: cannot be made: File exists; see "):
        asyncio.run(daemon.run())
