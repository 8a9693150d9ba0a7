"""Forgets what finished jobs left behind, when the configuration says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from atenea import durable
from atenea.config import Config
from atenea.ledger import Ledger
from atenea.rows import JobRow

_DAY = 86400.0

_BLOCK = 512
"""Bytes in what `st_blocks` counts."""

_AT_ONCE = 500
"""Jobs of each kind that one call deals with: the ledger is not held for long, and neither is the daemon's end."""


def clean_up(config: Config, ledger: Ledger, now: float) -> bool:
    """Remove the folders of jobs that are past their time or over the size limit, then old rows; whether more is to do.

    Each folder is looked at once, when its job is finished: there may be very many.
    """
    finished = ledger.unmeasured(_AT_ONCE)
    ledger.measured([(job, _measure(config, job)) for job in finished])
    expired = _expired(config, ledger, now)
    ledger.cleaned(expired)
    unwanted = _excess(config, ledger)
    ledger.cleaned(unwanted)
    gone = _remove(config, ledger.going(_AT_ONCE))
    ledger.gone(gone)
    # Not before: a folder that outlived its row would be taken for a job that a crash left behind.
    forgotten = ledger.forget(now - config.retention.history_days * _DAY, _AT_ONCE)
    return max(len(finished), len(expired), len(unwanted), len(gone), forgotten) >= _AT_ONCE


def _measure(config: Config, job: JobRow) -> int:
    folder = config.jobs / job.id
    if job.state == "done":  # a daemon that was killed may not have come to it
        drop_work(folder)
        with suppress(FileNotFoundError):  # somebody removed it
            durable.fsync_folder(folder)  # it is not looked at again
    return folder_size(folder)


def _expired(config: Config, ledger: Ledger, now: float) -> list[str]:
    keep = config.retention
    limits = {"done": keep.done_days, "failed": keep.failed_days, "cancelled": keep.failed_days}
    return [job_id for state, days in limits.items() for job_id in ledger.expired(state, now - days * _DAY, _AT_ONCE)]


def _excess(config: Config, ledger: Ledger) -> list[str]:
    """The oldest jobs, as many as are over the size limit."""
    excess = ledger.kept_bytes() - config.retention.max_gigabytes * 1e9
    found = []
    for job_id, size in ledger.oldest_kept(_AT_ONCE) if excess > 0 else ():
        if excess > 0:
            found.append(job_id)
        excess -= size
    return found


def _remove(config: Config, job_ids: Sequence[str]) -> list[str]:
    """Remove the folders of jobs; the jobs whose folders are gone."""
    for job_id in job_ids:
        shutil.rmtree(config.jobs / job_id, ignore_errors=True)
    if job_ids:
        durable.fsync_folder(config.jobs)
    return [job_id for job_id in job_ids if not (config.jobs / job_id).exists()]


def drop_work(folder: Path) -> None:
    """Remove what a finished job no longer needs: the work folders of its stages and the copies of its files."""
    for name in ("work", "input", "publish"):
        shutil.rmtree(folder / name, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Bytes that a folder and all in it take on the disk; 0 when there is none.

    A small file takes a whole block, and so does its folder: of a text, ten times what its files hold.
    """
    total = 0
    for root, _, files in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in files)):
            with suppress(FileNotFoundError):
                total += _BLOCK * os.lstat(path).st_blocks
    return total
