"""Whether the files of a models folder are there, whole and unchanged; works offline."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from atenea.models.lockfile import LOCK_FILE, LockedFile, read_lock
from atenea.models.manifest import PARTS, wanted_paths
from atenea.models.reading import note_readings, traits

OnBytes = Callable[[str, int], None]
"""Told what is being done and how many bytes further it is; from one thread at a time."""

_CHUNK = 1 << 20
_THREADS = 4
"""More would only wait for the disk."""


class _StoppedError(Exception):
    """Ends the threads that read, when what they find is no longer wanted."""


@dataclass(frozen=True)
class CheckedFile:
    """A file of the bundle, and what is wrong with it."""

    path: str
    """Relative to the models folder."""
    size: int
    """In bytes; 0 if it is not there."""
    fault: str | None
    """In words that follow its name, such as "is missing"."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    files: tuple[CheckedFile, ...]
    commit: str | None
    """Of the repository that the files were fetched from; None without a lock: then nothing vouches for them."""

    @property
    def faults(self) -> tuple[str, ...]:
        """A sentence for each wrong file."""
        return tuple(f"{file.path}: {file.fault}" for file in self.files if file.fault)


def missing_files(folder: Path, *, vocals: bool = False) -> tuple[str, ...]:
    """The paths of files that a render needs and that are not in the models folder; reads none of them."""
    return tuple(path for path in wanted_paths(vocals=vocals) if not (folder / path).is_file())


def concerned_files(folder: Path, *, vocals: bool = False) -> tuple[str, ...]:
    """The paths to look at: what is wanted, and what is there or was fetched of the rest."""
    lock = read_lock(folder)
    fetched = lock.files if lock else {}
    wanted = wanted_paths(vocals=vocals)
    every = (path for part in PARTS for path in part.paths)
    return tuple(path for path in every if path in wanted or path in fetched or (folder / path).is_file())


def total_bytes(folder: Path, paths: Iterable[str]) -> int:
    """How much there is to read of the files."""
    return sum((folder / path).stat().st_size for path in paths if (folder / path).is_file())


def verify(folder: Path, on_bytes: OnBytes = lambda _what, _count: None) -> Verification:
    """Compare every file with the lock, by size and SHA-256, and note which are right.

    Without a lock only what is missing is a fault: see `Verification.commit`.

    Raises:
        AteneaError: the lock is damaged or cannot be read.
    """
    lock = read_lock(folder)
    paths = concerned_files(folder)
    before = traits(folder, paths)
    found = read_files(folder, paths, on_bytes)
    if lock is None:
        checked = [_checked(path, file, None) for path, file in found.items()]
        return Verification(tuple(checked), None)
    checked = [_checked(path, file, _difference(file, lock.files.get(path))) for path, file in found.items()]
    note_readings(folder, before, {file.path: lock.files[file.path] for file in checked if not file.fault})
    return Verification(tuple(checked), lock.commit)


def read_files(folder: Path, paths: Iterable[str], on_bytes: OnBytes) -> dict[str, LockedFile | str]:
    """The size and SHA-256 of each file, or why it has none, such as "is missing"; several at once."""
    stop, turn = threading.Event(), threading.Lock()

    def count(what: str, number: int) -> None:
        if stop.is_set():
            raise _StoppedError
        with turn:
            on_bytes(what, number)

    wanted = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            return dict(zip(wanted, pool.map(lambda path: _read(folder, path, count), wanted), strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def sha256(path: Path, what: str, on_bytes: OnBytes) -> str:
    """The hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(what, len(chunk))
    return digest.hexdigest()


def git_blob(path: Path) -> str:
    """The name that git gives to a file's content: SHA-1 of its size and itself."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read(folder: Path, path: str, on_bytes: OnBytes) -> LockedFile | str:
    try:
        digest = sha256(folder / path, f"checking {path}", on_bytes)
        return LockedFile(size=os.stat(folder / path).st_size, sha256=digest)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _checked(path: str, found: LockedFile | str, fault: str | None) -> CheckedFile:
    if isinstance(found, str):
        return CheckedFile(path, 0, found)
    return CheckedFile(path, found.size, fault)


def _difference(found: LockedFile | str, locked: LockedFile | None) -> str | None:
    if locked is None:
        return f"nothing vouches for it: it is not in {LOCK_FILE}"
    if isinstance(found, str) or found == locked:
        return None
    if found.size != locked.size:
        return f"has {found.size} bytes instead of {locked.size}"
    return "was changed: its SHA-256 is not what was fetched"
