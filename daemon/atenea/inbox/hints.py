"""File system events, as hints that a scan may be worth while now. Nothing is lost without them, only seconds.

Watched are the inbox and the folders of presets, not what is below: a job folder that fills is pending, so the scan
looks at it again by itself. Only creating, closing after a write and moving in count, so that neither scanning nor
taking causes events.
"""

from __future__ import annotations

import logging
import os
import select
import stat
from collections.abc import Callable, Collection
from pathlib import Path

from watchdog.events import DirCreatedEvent, FileClosedEvent, FileCreatedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyConstants, Mask

from atenea.inbox.mounts import MOUNTS, file_system, is_remote

_log = logging.getLogger(__name__)

_EVENTS: list[type[FileSystemEvent]] = [DirCreatedEvent, FileClosedEvent, FileCreatedEvent]
_POLLS = "the inbox is looked through now and then"

_Folders = dict[Path, tuple[int, int]]
"""What is watched, with (device, inode) of each."""


class Hints:
    """Calls `on_change` from a thread of its own when something may have come into the inbox.

    `refresh` is for every periodic scan: it follows an inbox that was replaced, and says whether events can be relied
    on. `on_change` must be quick; what it raises is logged. `report` gets a sentence when events stop or start to work.
    """

    def __init__(
        self,
        inbox: Path,
        presets: Collection[str],
        on_change: Callable[[], None],
        polling: bool = False,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        self._inbox = inbox
        self._presets = tuple(presets)
        self._handler = _Handler(on_change)
        self._polling = polling
        self._report = report
        self._observer: BaseObserver | None = None
        self._watched: _Folders = {}
        self._mounts: _MountTable | None = None
        self._problem: str | None = None

    def start(self) -> bool:
        """Begin to watch; whether events work."""
        if not self._polling:
            self._mounts = _MountTable()
        return self.refresh()

    def refresh(self) -> bool:
        """Watch what is there now, if that has changed; whether events work.

        After a change there may be files that no event told of: the caller is about to scan anyway.
        """
        if self._polling:
            return False
        remounted = self._mounts is not None and self._mounts.changed()
        folders = self._folders()
        if remounted or folders != self._watched or not self._alive():
            self._disarm()
            self._arm(folders)
        return self._observer is not None and self._problem is None

    def stop(self) -> None:
        """End the watching and its threads."""
        self._disarm()
        if self._mounts is not None:
            self._mounts.close()
        self._mounts = None

    def _folders(self) -> _Folders:
        # The inbox itself may be reached through a link, the folder of a preset may not.
        inbox = _identity(self._inbox, follow_symlinks=True)
        if inbox is None:
            return {}
        presets = {self._inbox / preset: _identity(self._inbox / preset) for preset in self._presets}
        return {self._inbox: inbox} | {path: identity for path, identity in presets.items() if identity}

    def _alive(self) -> bool:
        # An emitter ends when its folder is deleted, and the next folder may get the same inode number.
        observer = self._observer
        if observer is None:
            return not self._watched
        return observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)

    def _arm(self, folders: _Folders) -> None:
        if not folders:
            # The scan reports an inbox that is missing.
            return
        try:
            self._observer = self._observe(folders)
        except (OSError, RuntimeError) as error:  # the second one says that no thread can be started
            reason = error.strerror if isinstance(error, OSError) else error
            self._set_problem(f"no file system events ({reason}): {_POLLS}")
            return
        self._watched = folders
        kind = file_system(folders[self._inbox][0])
        self._set_problem(f"no events for what others write on {kind}: {_POLLS}" if is_remote(kind) else None)

    def _observe(self, folders: _Folders) -> BaseObserver:
        observer = _Observer()
        try:
            for path in folders:
                real = os.path.realpath(path) if path is self._inbox else str(path)
                observer.schedule(self._handler, real, event_filter=_EVENTS)
            observer.start()
        except BaseException:
            _end(observer)
            raise
        return observer

    def _disarm(self) -> None:
        if self._observer is not None:
            _end(self._observer)
        self._observer = None
        self._watched = {}

    def _set_problem(self, problem: str | None) -> None:
        if problem != self._problem:
            self._report(problem or "file system events work again")
        self._problem = problem


class _Emitter(InotifyEmitter):
    """Without moves out: watchdog holds them back for half a second, to pair them, and whatever comes after them."""

    def get_event_mask_from_filter(self) -> Mask:
        return Mask(super().get_event_mask_from_filter() & ~InotifyConstants.IN_MOVED_FROM)


class _Observer(InotifyObserver):
    """An `InotifyObserver` with `_Emitter`s."""

    def __init__(self) -> None:
        super().__init__()
        self._emitter_class = _Emitter


class _Handler(FileSystemEventHandler):
    """Turns any event into a call; an exception would end the observer's thread."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    def dispatch(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - the signature is watchdog's
        try:
            self._on_change()
        except Exception:  # noqa: BLE001 - whatever it is, the next event must find the thread alive
            _log.exception("the scan of the inbox could not be woken")


class _MountTable:
    """Tells when anything was mounted or unmounted: a folder mounted anew can look just as before, and be silent."""

    def __init__(self) -> None:
        self._poll = select.poll()
        try:
            self._fd: int | None = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = None
        else:
            self._poll.register(self._fd, select.POLLPRI)

    def changed(self) -> bool:
        """Whether the table has changed since the last call."""
        return self._fd is not None and bool(self._poll.poll(0))

    def close(self) -> None:
        """Let go of the table."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None


def _identity(path: Path, *, follow_symlinks: bool = False) -> tuple[int, int] | None:
    """(device, inode) of a folder that can be watched."""
    try:
        status = path.stat(follow_symlinks=follow_symlinks)
    except OSError:
        return None
    # watchdog takes a folder that it may not watch for one where nothing happens.
    if not stat.S_ISDIR(status.st_mode) or not os.access(path, os.R_OK | os.X_OK):
        return None
    return status.st_dev, status.st_ino


def _end(observer: BaseObserver) -> None:
    observer.stop()
    if observer.ident is not None:
        observer.join()
