"""One process at a time owns a state folder: the daemon, or a command while no daemon runs."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from atenea.errors import BusyError, UsageError

_LOOK_SECONDS = 0.02


class StateLock:
    """Holds the lock of a state folder, which ends with the process at the latest. A context manager.

    Args:
        state: the folder.
        patience: seconds to wait for another process that holds it.

    Raises:
        BusyError: another process holds it.
        UsageError: there is no such folder, or it may not be written.
    """

    def __init__(self, state: Path, *, patience: float = 0.0) -> None:
        self._path = state / "daemon.lock"
        self._patience = patience
        self._descriptor: int | None = None

    def __enter__(self) -> StateLock:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        except OSError as error:
            raise UsageError(f"{self._path}: cannot be opened: {error.strerror}") from None
        if not self._take(descriptor):
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise BusyError(f"{self._path.parent}: in use by another atenea (process {owner or 'unknown'})")
        with suppress(OSError):  # on a full disk: it is only for the sentence above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def _take(self, descriptor: int) -> bool:
        """Lock the file, as far as patience goes; whether that worked."""
        end = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(_LOOK_SECONDS)
            else:
                return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
