"""File work that hangs, as on a dead file server, while the process that does it lives."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FAN_CLASS_CONTENT, _FAN_CLOEXEC, _FAN_MARK_ADD = 4, 1, 1
_FAN_OPEN_PERM, _FAN_ONDIR = 0x00010000, 0x40000000


@contextmanager
def hanging_open(folder: Path) -> Iterator[None]:
    """Whoever opens the folder meanwhile hangs in that system call, until the end or killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    group = libc.fanotify_init(_FAN_CLASS_CONTENT | _FAN_CLOEXEC, os.O_RDONLY)
    if group < 0:
        pytest.skip(f"an open cannot be made to hang: {os.strerror(ctypes.get_errno())}")
    try:
        mask = ctypes.c_uint64(_FAN_OPEN_PERM | _FAN_ONDIR)
        if libc.fanotify_mark(group, _FAN_MARK_ADD, mask, -100, os.fsencode(folder)):
            pytest.skip(f"an open cannot be made to hang: {os.strerror(ctypes.get_errno())}")
        yield
    finally:
        os.close(group)
