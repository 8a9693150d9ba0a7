"""Forgets what finished jobs left behind, when the configuration says so."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
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

_FAR_SECONDS = 3600.0
_LONG_SECONDS = 30 * _DAY
_STEADY_SECONDS = _DAY
"""A clock that was set by more than the first, or that has gone on by more than the second while no daemon ran, is
believed when it was not set again for so long."""

_LARGE_SHARE = 0.1
_LEAST_FREE = 1 << 20
"""A work folder that takes this share of its disk, or more, is why the disk is full when less than that is free."""

_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
"""The words in which a step, or a program that it started, says that it found the disk full."""

_AT_ONCE = 500
"""Jobs of each kind that one call deals with: the ledger is not held for long, and neither is the daemon's end."""


def clean_up(config: Config, ledger: Ledger, now: float) -> bool:
    """Remove the folders of jobs that are past their time or over the size limit, then old rows; whether more is to do.

    Each folder is looked at once, when its job is finished: there may be very many. Nothing is past its time while the
    clock is doubted (see `doubt_ages`).
    """
    aged = _ages_are_believed(ledger, now)
    finished = ledger.unmeasured(_AT_ONCE)
    ledger.measured([(job, _measure(config, job)) for job in finished])
    expired = _expired(config, ledger, now) if aged else []
    ledger.cleaned(expired)
    unwanted = _excess(config, ledger)
    ledger.cleaned(unwanted)
    gone = _remove(config, ledger.going(_AT_ONCE))
    ledger.gone(gone)
    # Not before: a folder that outlived its row would be taken for a job that a crash left behind.
    forgotten = ledger.forget(now - config.retention.history_days * _DAY, _AT_ONCE) if aged else 0
    return max(len(finished), len(expired), len(unwanted), len(gone), forgotten) >= _AT_ONCE


def doubt_ages(ledger: Ledger) -> None:
    """The clock may be wrong: take no job for old within a day, which it must go on for without being set again.

    A clock that is years ahead, be it for a minute, would remove all that people may still want to try again.
    """
    ledger.doubt_clock(time.time() + _STEADY_SECONDS)


def is_far(seconds: float) -> bool:
    """Whether a clock that was set by so much is to be doubted."""
    return abs(seconds) >= _FAR_SECONDS


def was_long_away(ledger: Ledger) -> bool:
    """Whether the clock has gone on for so long since the ledger's last entry that it may have been set."""
    last = ledger.last_moment()
    return last is not None and time.time() - last > _LONG_SECONDS


def _ages_are_believed(ledger: Ledger, now: float) -> bool:
    until = ledger.clock_doubted_until
    if until > now + _STEADY_SECONDS:  # it was doubted while it was ahead
        doubt_ages(ledger)
    return until <= now


def _measure(config: Config, job: JobRow) -> int:
    folder = config.jobs / job.id
    if job.state == "done":  # a daemon that was killed may not have come to it
        drop_work(folder)
        with suppress(OSError):  # one folder's fault must not keep the others
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
        drop_folder(config.jobs / job_id)
    if job_ids:
        durable.fsync_folder(config.jobs)
    return [job_id for job_id in job_ids if not (config.jobs / job_id).exists()]


def drop_work(folder: Path) -> None:
    """Remove what a finished job no longer needs: the work folders of its stages and the copies of its files."""
    for name in ("work", "input", "publish"):
        drop_folder(folder / name)


def drop_folder(folder: Path) -> None:
    """Remove a folder with all in it, also what a plugin has closed or made read-only; what cannot be removed stays."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        _open_up(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """Let this user list, enter and change a folder and those in it."""
    _let_in(folder)
    for root, names, _ in os.walk(folder):
        for name in names:
            _let_in(os.path.join(root, name))  # before it is walked into


def _let_in(folder: Path | str) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(folder).st_mode):  # of a link, what it points to would be changed
            os.chmod(folder, stat.S_IRWXU)


def relieve_disk(folder: Path, most: float, error: str | None) -> int:
    """Remove a work folder that fills its disk, or of a failed step holds too much, so that others can go on.

    Args:
        folder: the work folder of a step that runs no more.
        most: bytes that a failed step may leave.
        error: what the step failed of, in its words; None for one that is done.

    Returns:
        The bytes that it held; 0 if it stays, as what a long stage has done so far should.
    """
    size = folder_size(folder)
    if not size:
        return 0
    disk = os.statvfs(folder)
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    # What found the disk full may have let go of some room again by its end.
    least_free = size if any(words in (error or "") for words in _FULL) else _LEAST_FREE
    fills = size >= _LARGE_SHARE * total and free < least_free
    if not fills and not (error is not None and size > most):
        return 0
    drop_folder(folder)
    return size


def folder_size(folder: Path) -> int:
    """Bytes that a folder and all in it take on the disk; 0 when there is none.

    A small file takes a whole block, and so does its folder: of a text, ten times what its files hold.
    """
    total = 0
    for root, _, files in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in files)):
            with suppress(OSError):  # it went meanwhile, or is in a folder that a plugin has closed
                total += _BLOCK * os.lstat(path).st_blocks
    return total
