"""What finished jobs leave behind goes when its time is over, and never with a job that is wanted again."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from stock import Jobs

from atenea.config import Config, Paths, Retention
from atenea.ledger import Ledger
from atenea.retention import clean_up, drop_work, folder_size
from atenea.rows import JobRow

_DAY = 86400.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        paths=Paths(state=tmp_path),
        retention=Retention(done_days=10, failed_days=20, history_days=100, max_gigabytes=1),
    )


def finished(jobs: Jobs, config: Config, days_ago: float, state: str = "done", size: int = 10) -> JobRow:
    """A job that finished so long ago, and its folder."""
    with pytest.MonkeyPatch.context() as patch:
        moment = time.time() - days_ago * _DAY
        patch.setattr(time, "time", lambda: moment)
        job = jobs.to_publish()
        if state == "cancelled":
            jobs.ledger.cancel(job)
        else:
            job = jobs.finish(job, state)
    folder = config.jobs / job.id / "original"
    folder.mkdir(parents=True)
    (folder / "hello.txt").write_bytes(b"x" * size)
    return jobs.now(job)


def left(config: Config) -> set[str]:
    """Ids of the jobs whose folders are there."""
    return set(os.listdir(config.jobs))


def clean(config: Config, db: Ledger) -> int:
    return clean_up(config, db, time.time())


def test_each_state_has_its_time(config: Config, db: Ledger, jobs: Jobs) -> None:
    young = [finished(jobs, config, 9), finished(jobs, config, 19, "failed"), finished(jobs, config, 19, "cancelled")]
    old = [finished(jobs, config, 11), finished(jobs, config, 21, "failed"), finished(jobs, config, 21, "cancelled")]
    assert clean(config, db) == 3
    assert left(config) == {job.id for job in young}
    assert [jobs.now(job).cleaned for job in young + old] == [False] * 3 + [True] * 3
    assert clean(config, db) == 0


def test_jobs_that_are_not_finished_stay_however_old(config: Config, db: Ledger, jobs: Jobs) -> None:
    job = finished(jobs, config, 500, "failed")
    db.retry(job)
    assert clean(config, db) == 0
    assert left(config) == {job.id}


def test_above_the_size_limit_the_oldest_go_first(config: Config, db: Ledger, jobs: Jobs) -> None:
    limited = config.model_copy(update={"retention": config.retention.model_copy(update={"max_gigabytes": 2.5e-6})})
    newest, oldest, middle = (finished(jobs, limited, days, size=1000) for days in (1, 3, 2))
    running = finished(jobs, limited, 5, "failed", size=9000)
    db.retry(running)
    assert clean(limited, db) == 1
    assert left(limited) == {newest.id, middle.id, running.id}
    assert jobs.now(oldest).cleaned


def test_history_is_forgotten_after_the_folder(config: Config, db: Ledger, jobs: Jobs) -> None:
    forgotten, remembered = finished(jobs, config, 101), finished(jobs, config, 99)
    assert clean(config, db) == 2
    assert db.job(forgotten.id) is None
    assert db.job(remembered.id) is not None
    assert left(config) == set()


def test_a_folder_that_cannot_be_removed_keeps_its_row(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = finished(jobs, config, 101)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_args, **_more: None)
        clean(config, db)
        clean(config, db)
    assert left(config) == {job.id}
    assert jobs.now(job).cleaned  # so that nobody starts it again half removed
    clean(config, db)
    assert (left(config), db.job(job.id)) == (set(), None)


def test_a_job_that_is_retried_while_others_are_measured_is_kept(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    retried, expired = finished(jobs, config, 30, "failed"), finished(jobs, config, 30, "failed")
    finished(jobs, config, 1)
    lstat = os.lstat

    def retry_meanwhile(path: Any, **more: Any) -> os.stat_result:
        if jobs.now(retried).is_final:
            db.retry(jobs.now(retried))
        return lstat(path, **more)

    monkeypatch.setattr(os, "lstat", retry_meanwhile)
    assert clean(config, db) == 1
    assert retried.id in left(config)
    assert expired.id not in left(config)
    assert not jobs.now(retried).cleaned


def test_a_finished_job_loses_its_work_and_keeps_its_original(tmp_path: Path) -> None:
    for name in ("original", "work/tts", "work/post-5", "input", "publish"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"x")
    (tmp_path / "job.json").write_bytes(b"{}")
    drop_work(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"original", "job.json"}
    assert (tmp_path / "original/file").read_bytes() == b"x"
    drop_work(tmp_path)


def test_a_folders_size_is_that_of_all_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"x" * 100)
    (tmp_path / "a/b/two").write_bytes(b"x" * 23)
    (tmp_path / "outside").write_bytes(b"x" * 5000)
    (tmp_path / "a/link").symlink_to(tmp_path / "outside")
    assert folder_size(tmp_path / "a") == 123 + (tmp_path / "a/link").lstat().st_size
    assert folder_size(tmp_path / "gone") == 0
