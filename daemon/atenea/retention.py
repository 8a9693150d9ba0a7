"""Forgets what finished jobs left behind, when the configuration says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from atenea.config import Config
from atenea.ledger import Ledger

_DAY = 86400.0


def clean_up(config: Config, ledger: Ledger, now: float) -> int:
    """Remove the folders of jobs that are past their time or over the size limit, then old rows; how many folders."""
    keep = config.retention
    limits = {"done": keep.done_days, "failed": keep.failed_days, "cancelled": keep.failed_days}
    jobs = ledger.uncleaned()
    for job in jobs:
        if job.state == "done":  # a daemon that was killed may not have come to it
            drop_work(config.jobs / job.id)
    expired = [job.id for job in jobs if (job.finished or now) < now - limits[job.state] * _DAY]
    rest = [job.id for job in jobs if job.id not in set(expired)]
    sizes = {job_id: folder_size(config.jobs / job_id) for job_id in rest}
    excess = sum(sizes.values()) - keep.max_gigabytes * 1e9
    for job_id in rest:
        if excess <= 0:
            break
        expired.append(job_id)
        excess -= sizes[job_id]
    expired = ledger.cleaned(expired)
    _remove(config, expired)
    # A folder that outlived its row would be taken for a job that a crash left behind.
    ledger.forget(_remove(config, ledger.forgettable(now - keep.history_days * _DAY)))
    return len(expired)


def _remove(config: Config, job_ids: Sequence[str]) -> list[str]:
    """Remove the folders of jobs; the jobs whose folders are gone."""
    for job_id in job_ids:
        shutil.rmtree(config.jobs / job_id, ignore_errors=True)
    return [job_id for job_id in job_ids if not (config.jobs / job_id).exists()]


def drop_work(folder: Path) -> None:
    """Remove what a finished job no longer needs: the work folders of its stages and the copies of its files."""
    for name in ("work", "input", "publish"):
        shutil.rmtree(folder / name, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; 0 when there is none."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total
