"""What finished jobs leave behind goes when its time is over, and never with a job that is wanted again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stock import Jobs

from atenea import retention
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


def clean(config: Config, db: Ledger) -> None:
    assert not clean_up(config, db, time.time())  # there is no more to do


def test_each_state_has_its_time(config: Config, db: Ledger, jobs: Jobs) -> None:
    young = [finished(jobs, config, 9), finished(jobs, config, 19, "failed"), finished(jobs, config, 19, "cancelled")]
    old = [finished(jobs, config, 11), finished(jobs, config, 21, "failed"), finished(jobs, config, 21, "cancelled")]
    clean(config, db)
    assert left(config) == {job.id for job in young}
    assert [jobs.now(job).cleaned for job in young + old] == [False] * 3 + [True] * 3
    clean(config, db)
    assert left(config) == {job.id for job in young}


def test_jobs_that_are_not_finished_stay_however_old(config: Config, db: Ledger, jobs: Jobs) -> None:
    job = finished(jobs, config, 500, "failed")
    db.retry(job)
    clean(config, db)
    assert left(config) == {job.id}


def test_above_the_size_limit_the_oldest_go_first(config: Config, db: Ledger, jobs: Jobs) -> None:
    newest, oldest, middle = (finished(jobs, config, days, size=1000) for days in (1, 3, 2))
    running = finished(jobs, config, 5, "failed", size=90_000)
    db.retry(running)
    limited = limited_to(config, 2.5 * folder_size(config.jobs / newest.id))
    clean(limited, db)
    assert left(limited) == {newest.id, middle.id, running.id}
    assert jobs.now(oldest).cleaned


def limited_to(config: Config, size: float) -> Config:
    """The configuration with this size limit, in bytes."""
    return config.model_copy(update={"retention": config.retention.model_copy(update={"max_gigabytes": size / 1e9})})


def test_what_is_past_its_time_goes_before_what_is_only_old(config: Config, db: Ledger, jobs: Jobs) -> None:
    failed, done = finished(jobs, config, 15, "failed"), finished(jobs, config, 11)
    clean(limited_to(config, 1.5 * folder_size(config.jobs / failed.id)), db)
    assert left(config) == {failed.id}
    assert jobs.now(done).cleaned


def test_a_folder_is_looked_at_once_and_again_after_a_retry(config: Config, db: Ledger, jobs: Jobs) -> None:
    done, failed = finished(jobs, config, 2), finished(jobs, config, 1, "failed")
    size = folder_size(config.jobs / done.id)
    clean(config, db)
    (config.jobs / done.id / "original" / "more").write_bytes(b"x" * 8192)
    (config.jobs / failed.id / "original" / "more").write_bytes(b"x" * 8192)
    assert db.kept_bytes() == 2 * size
    db.retry(jobs.now(failed))
    assert db.kept_bytes() == size
    jobs.plan(failed)
    jobs.finish(jobs.now(failed), "failed")
    assert [job.id for job in db.unmeasured(9)] == [failed.id]
    clean(config, db)
    assert db.kept_bytes() == size + folder_size(config.jobs / failed.id)


def test_very_many_are_dealt_with_in_parts(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 2)
    for days in (200, 150, 15, 12, 5):
        finished(jobs, config, days)
    assert [clean_up(config, db, time.time()) for _ in range(4)] == [True, True, False, False]
    assert len(left(config)) == 1
    assert len(db.finished(9)) == 3


def test_a_crash_while_folders_are_removed_leaves_none_behind(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = [finished(jobs, config, days, "failed") for days in (30, 25)]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            clean_up(config, db, time.time())
    assert [jobs.now(job).cleaned for job in expired] == [True, True]
    assert left(config) == {job.id for job in expired}
    clean(config, db)
    assert left(config) == set()


def crash(*_args: object, **_more: object) -> None:
    raise KeyboardInterrupt


def test_history_is_forgotten_after_the_folder(config: Config, db: Ledger, jobs: Jobs) -> None:
    forgotten, remembered = finished(jobs, config, 101), finished(jobs, config, 99)
    clean(config, db)
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
    clean(config, db)
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


AS_OWNER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
"""Before a command: permissions bind it, as they do a daemon that is not root."""


def as_owner(code: str) -> str:
    """What a program prints that has imported `retention`."""
    command = [*AS_OWNER, sys.executable, "-c", f"from atenea import retention\nfrom pathlib import Path\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def closed_job(tmp_path: Path) -> Path:
    """A job's folder in which a plugin has closed folders."""
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    work = tmp_path / "job/work/tts"
    for name, mode in (("shut", 0o600), ("fixed/deep", 0o555), ("hidden", 0o000)):
        (work / name).mkdir(parents=True)
        (work / name / "file").write_bytes(b"x" * 8192)
        (work / name).chmod(mode)
    (work / "link").symlink_to(outside)
    (tmp_path / "job/input").symlink_to(outside)
    work.chmod(0o555)
    return tmp_path / "job"


def test_folders_that_a_plugin_has_closed_are_removed(tmp_path: Path) -> None:
    folder = closed_job(tmp_path)
    assert as_owner(f"retention.drop_work(Path({str(folder)!r}))") == ""
    assert list(folder.iterdir()) == [folder / "input"]  # a link, which is not followed
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "outside", tmp_path / "outside/in")] == [0o755] * 2


def test_the_size_of_a_closed_folder_is_what_can_be_seen_of_it(tmp_path: Path) -> None:
    folder = closed_job(tmp_path)
    seen = int(as_owner(f"print(retention.folder_size(Path({str(folder)!r})))"))
    assert 8192 < seen < folder_size(folder)


def test_a_folders_size_is_what_all_in_it_takes_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"x" * 100)
    (tmp_path / "a/b/two").write_bytes(b"x" * 50_000)
    (tmp_path / "outside").write_bytes(b"x" * 500_000)
    (tmp_path / "a/link").symlink_to(tmp_path / "outside")
    told = subprocess.run(["du", "-s", "--block-size=1", tmp_path / "a"], capture_output=True, text=True, check=True)
    assert folder_size(tmp_path / "a") == int(told.stdout.split()[0]) > 50_100
    assert folder_size(tmp_path / "gone") == 0
