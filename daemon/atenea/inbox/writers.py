"""Whether somebody still writes a file: what the time stamps of a stalled upload cannot tell."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

from atenea.inbox.mounts import file_system, is_remote
from atenea.inbox.nofollow import open_beneath
from atenea.inbox.readings import read_job


def has_writer(fd: int) -> bool | None:
    """Whether anybody has the file open, or mapped, for writing; None when the kernel does not tell.

    It tells the file's owner and who has CAP_LEASE, and nothing of file systems that are another machine's.
    """
    try:
        # Who opens the file in the next microsecond breaks the lease; the default signal for that would end us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return None if is_remote(file_system(os.fstat(fd).st_dev)) else True
    except OSError:
        return None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def is_written(root: Path, relative: str, *, patience: float | None = None) -> bool | None:
    """`has_writer` for any file of the job at `relative`; with `patience`, writers of files that did not change for so
    many seconds do not count.
    """
    answers: set[bool | None] = set()
    for path, reading in read_job(root, relative):
        if patience is None or time.time() - reading.ctime_ns / 1e9 <= patience:
            answers.add(_has_writer(root, path))
    return True if True in answers else None if None in answers else False


def _has_writer(root: Path, path: str) -> bool | None:
    try:
        fd = open_beneath(root, path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        return has_writer(fd)
    finally:
        os.close(fd)
