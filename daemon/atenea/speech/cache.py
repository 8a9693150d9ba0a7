"""Keeps speech that was paid for: files named by a hash of everything that shapes the sound.

An entry is one file, `HASH.sound`: a line of JSON with the SHA-256 of the rest, then the samples. It appears by a
rename after it was synced, so a crash leaves none that is half there; what the disk spoils later the checksum tells,
and the entry is made again. While a piece is made, `HASH.lock` is locked by flock: jobs in other processes that want
the same piece wait and then find it, and a process that dies lets go. Beyond the size limit the entries go that were
not used for longest, but none that a running job may still come back to.

A folder that is full, or cannot be written, costs nothing that was paid: the pieces of a job are then kept in a second
folder, which is the job's own, and where neither has room none is made.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from atenea import durable
from atenea.speech.sound import Sound, from_pcm

_ENTRY = ".sound"
_LOCK = ".lock"
_LOOK_SECONDS = 0.1
_LEFT_OVER_SECONDS = 86_400.0
_ROOM = 16 << 20
"""Bytes, of a few of the longest pieces, which are made at once: with less room than this none is made."""


def entry_name(facts: Mapping[str, Any]) -> str:
    """The name of the piece that these JSON values shape: the same for equal values in any order."""
    canonical = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


class SoundCache:
    """The pieces in one folder, which other processes use too.

    Args:
        folder: exists already.
        limit_bytes: `trim` makes room down to this.
        spare_seconds: what was used within this time stays in spite of the limit.
        refuge: a folder of one job, where its pieces are kept while `folder` cannot take them; made when it is needed.
        on_trouble: told the first fault of `folder` that sends pieces to the refuge.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        spare_seconds: float = 3600.0,
        refuge: Path | None = None,
        on_trouble: Callable[[OSError], None] = lambda _error: None,
    ) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._spare = spare_seconds
        self._refuge = refuge
        self._on_trouble = on_trouble
        self._in_trouble = False

    def find(self, name: str, accept: Callable[[Sound], bool] = lambda _sound: True) -> Sound | None:
        """The piece, if it is here, whole and acceptable; a damaged one is removed."""
        folders = [folder for folder in (self._folder, self._refuge) if folder]
        sounds = (_found(folder / f"{name}{_ENTRY}") for folder in folders)
        return next((sound for sound in sounds if sound and accept(sound)), None)

    async def get(
        self,
        name: str,
        make: Callable[[], Awaitable[Sound]],
        *,
        accept: Callable[[Sound], bool] = lambda _sound: True,
        waiting: Callable[[], None] = lambda: None,
    ) -> tuple[Sound, bool]:
        """The piece, made if it is not here; and whether it was made.

        Args:
            name: from `entry_name`.
            make: makes the piece, checked and ready to keep.
            accept: whether a piece that is here will do; if not, it is made again and replaced.
            waiting: called again and again while another job makes it.

        Raises:
            OSError: it cannot be kept anywhere; where that shows beforehand, it is not made.
        """
        if sound := self.find(name, accept):
            return sound, False
        async with self._claimed(name, waiting) as folder:
            if sound := self.find(name, accept):
                return sound, False
            _check_room(folder)
            sound = await make()
            self._keep(folder, f"{name}{_ENTRY}", _packed(sound))
            return sound, True

    def trim(self) -> None:
        """Remove what was not used for longest until the rest is within the limit, and what crashes left over."""
        with suppress(OSError):  # no reason to lose a job: the next one tries again
            self._trim()

    def _trim(self) -> None:
        entries = sorted(self._facts(f"*{_ENTRY}"), reverse=True)
        now, total = time.time(), 0
        for used, size, path in entries:
            total += size
            if total > self._limit and used < now - self._spare:
                durable.remove_file(path)
        for used, _, path in [*self._facts(".*.tmp"), *self._facts(f"*{_LOCK}")]:
            if used < now - _LEFT_OVER_SECONDS:
                _remove_unlocked(path)

    def _facts(self, pattern: str) -> list[tuple[float, int, Path]]:
        """(when it was last used, bytes, path) of the files that match."""
        found = []
        for path in self._folder.glob(pattern):
            with suppress(FileNotFoundError):
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        return found

    def _keep(self, folder: Path, entry: str, data: bytes) -> None:
        """Write an entry: what was paid for is kept in the refuge if the folder was filled up meanwhile."""
        try:
            durable.write_atomic(folder / entry, data)
        except OSError as error:
            durable.write_atomic(self._another(folder, error) / entry, data)

    @asynccontextmanager
    async def _claimed(self, name: str, waiting: Callable[[], None]) -> AsyncIterator[Path]:
        """The folder in which the piece may be made, by nobody else meanwhile."""
        folder = self._folder
        while True:
            try:
                _check_room(folder)
                descriptor = _locked(folder / f"{name}{_LOCK}")
            except OSError as error:
                folder = self._another(folder, error)
                continue
            if descriptor is not None:
                break
            waiting()
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            yield folder
        finally:
            with suppress(OSError):
                durable.remove_file(folder / f"{name}{_LOCK}")
            os.close(descriptor)

    def _another(self, folder: Path, error: OSError) -> Path:
        """The refuge, if the folder that failed is not that already."""
        if self._refuge is None or folder == self._refuge:
            raise error
        if not self._in_trouble:
            self._in_trouble = True
            self._on_trouble(error)
        durable.make_folders(self._refuge)
        return self._refuge


def _check_room(folder: Path) -> None:
    """Raise OSError if the folder's file system has no room for a piece, or can only be read."""
    facts = os.statvfs(folder)
    if facts.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
    if facts.f_bavail * facts.f_frsize < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _found(path: Path) -> Sound | None:
    try:
        data = path.read_bytes()
    except OSError:  # not there, forbidden, or on a sector that cannot be read
        return None
    with suppress(OSError):  # where nothing can be written, nothing is trimmed either
        os.utime(path)
    sound = _unpacked(data)
    if sound is None:
        with suppress(OSError):
            durable.remove_file(path)
    return sound


def _locked(path: Path) -> int | None:
    """A descriptor of the file, locked and in its place; None if another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it has removed the name: the lock is on a file that nobody else will find.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _remove_unlocked(path: Path) -> None:
    descriptor = _locked(path)
    if descriptor is not None:
        durable.remove_file(path)
        os.close(descriptor)


def _packed(sound: Sound) -> bytes:
    samples = np.ascontiguousarray(sound.samples, "<i2").tobytes()
    notes = json.dumps(sound.notes, sort_keys=True)
    return _header(notes, samples) + b"\n" + samples


def _unpacked(data: bytes) -> Sound | None:
    header, _, samples = data.partition(b"\n")
    try:
        notes = json.dumps(json.loads(header)["notes"], sort_keys=True)
    except (ValueError, KeyError, TypeError):
        return None
    return Sound(from_pcm(samples), json.loads(notes)) if _header(notes, samples) == header else None


def _header(notes: str, samples: bytes) -> bytes:
    digest = hashlib.sha256(notes.encode() + b"\n" + samples).hexdigest()
    return json.dumps({"sha256": digest, "notes": json.loads(notes)}, sort_keys=True).encode()
