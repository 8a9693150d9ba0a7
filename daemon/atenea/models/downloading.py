"""Fetches what a models folder lacks of the bundle, and records what it has.

A file gets its name only when its content is what the hub states; until then it lies beside its place, hidden, and the
next download goes on with it.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from atenea import durable
from atenea.errors import AteneaError
from atenea.models.checking import OnBytes, concerned_files, git_blob, read_files, sha256
from atenea.models.hub import Hub, Stated
from atenea.models.lockfile import LOCK_FILE, Lock, LockedFile, read_lock, write_lock
from atenea.models.manifest import COMMIT, REPOSITORY
from atenea.models.reading import Traits, note_readings, traits

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Plan:
    """What a download will do."""

    folder: Path
    paths: tuple[str, ...]
    """The files that it is about."""
    record: dict[str, LockedFile]
    """What to record before anything is fetched."""
    lacking: tuple[Stated, ...]
    """Files to fetch."""
    hub: Hub | None
    """None when nothing lacks: then it is not asked."""
    before: dict[str, Traits]
    """How the files were that are there, before they were read."""

    @property
    def bytes_in_all(self) -> int:
        """Of the files to fetch."""
        return sum(file.size for file in self.lacking)

    @property
    def bytes_left(self) -> int:
        """The same without what earlier downloads left of them."""
        return _bytes_left(self.folder, self.lacking)


def plan(folder: Path, *, vocals: bool, on_bytes: OnBytes) -> Plan:
    """Look what is there, and ask the hub about the rest; what was put there by hand counts if the hub states the same.

    Raises:
        AteneaError: the hub cannot be asked, the lock is damaged, or the disk has not enough room.
    """
    wanted = concerned_files(folder, vocals=vocals)
    locked, before = _locked(folder), traits(folder, wanted)
    found = read_files(folder, wanted, on_bytes)
    right = {path: locked[path] for path in wanted if path in locked and found[path] == locked[path]}
    rest = [path for path in wanted if path not in right]
    if not rest:
        return Plan(folder, wanted, locked, (), None, before)
    hub = Hub()
    lacking = []
    for path, stated in hub.state(rest).items():
        _refuse_other_content(hub, stated, locked.get(path))
        there = found[path]
        if isinstance(there, LockedFile) and _is_content(folder / path, there, stated):
            right[path] = there
        else:
            lacking.append(stated)
    planned = Plan(folder, wanted, {**locked, **right}, tuple(lacking), hub, before)
    _check_room(planned)
    return planned


def carry_out(planned: Plan, on_bytes: OnBytes) -> None:
    """Fetch what lacks, and record every file as soon as it is there.

    Raises:
        AteneaError: a file cannot be fetched, is not what the hub states, or cannot be written.
    """
    folder, files, lacking = planned.folder, dict(planned.record), list(planned.lacking)
    fetched = {file.path for file in lacking}
    note_readings(folder, planned.before, {path: files[path] for path in planned.paths if path not in fetched})
    if planned.hub is None:
        return
    with _sentences(folder, lacking):
        _record(folder, files)
        while lacking:
            path = lacking[0].path
            files[path] = _fetch(planned.hub, folder, lacking[0], on_bytes)
            _record(folder, files)
            note_readings(folder, traits(folder, [path]), {path: files[path]})
            del lacking[0]


def _fetch(hub: Hub, folder: Path, file: Stated, on_bytes: OnBytes) -> LockedFile:
    target, part = folder / file.path, _part(folder, file)
    target.parent.mkdir(parents=True, exist_ok=True)
    hub.receive(file, part, on_bytes)
    received = LockedFile(
        size=_size(part), sha256=sha256(part, f"checking {file.path}", lambda what, _: on_bytes(what, 0))
    )
    if not _is_content(part, received, file):
        durable.remove_file(part)
        raise AteneaError(
            f"{file.path}: what {hub.endpoint} sent is not what it states, and was removed; run it again, or take "
            "another mirror"
        )
    durable.fsync_file(part)
    durable.replace(part, target)
    for stale in target.parent.glob(f".{target.name}.*.part"):
        durable.remove_file(stale)
    return received


def _locked(folder: Path) -> dict[str, LockedFile]:
    lock = read_lock(folder)
    return dict(lock.files) if lock and (lock.repository, lock.commit) == (REPOSITORY, COMMIT) else {}


def _record(folder: Path, files: dict[str, LockedFile]) -> None:
    write_lock(folder, Lock(repository=REPOSITORY, commit=COMMIT, files=files))


def _refuse_other_content(hub: Hub, stated: Stated, locked: LockedFile | None) -> None:
    """A commit never changes: who states something else about one of its files is not to be trusted."""
    if locked and (stated.size != locked.size or stated.sha256 not in {None, locked.sha256}):
        raise AteneaError(
            f"{stated.path}: {hub.endpoint} states another content than {LOCK_FILE} records; take another mirror, "
            f"or remove {LOCK_FILE} if you trust this one"
        )


def _is_content(path: Path, found: LockedFile, stated: Stated) -> bool:
    if found.size != stated.size:
        return False
    return found.sha256 == stated.sha256 if stated.sha256 else git_blob(path) == stated.blob


def _check_room(planned: Plan) -> None:
    needed, free = planned.bytes_left, shutil.disk_usage(planned.folder).free
    if needed > free:
        raise AteneaError(
            f"{planned.folder}: needs {decimal(needed)} and has {decimal(free)} free; make room, or set paths.models"
        )


@contextmanager
def _sentences(folder: Path, lacking: Sequence[Stated]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            needed = decimal(_bytes_left(folder, lacking))
            raise AteneaError(
                f"{folder}: the disk is full; make room for {needed} more, run it again, and it goes on"
            ) from None
        raise AteneaError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None


def _bytes_left(folder: Path, files: Iterable[Stated]) -> int:
    return sum(max(file.size - _size(_part(folder, file)), 0) for file in files)


def _part(folder: Path, file: Stated) -> Path:
    """Where a file lies while it is not whole; what belongs to other content is never gone on with."""
    target = folder / file.path
    return target.with_name(f".{target.name}.{(file.sha256 or file.blob)[:16]}.part")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
