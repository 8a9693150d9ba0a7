"""What can be read of files without opening them: enough to tell whether they are still being written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from atenea.inbox import names
from atenea.inbox.nofollow import folder_beneath, open_folder

MAX_ENTRIES = 1000
"""A job folder with more files and folders inside is refused."""

MAX_DEPTH = 16

# The last one, because a text's name may be too long for its picture's to exist.
_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class Reading(NamedTuple):
    """A regular file's state at one moment; two that are equal, a while apart, make it settled."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Reading:
        """The reading that a stat gives."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def in_progress(self) -> bool:
        """Whether `rsync --partial` left it, which marks a part under the final name with the time 0."""
        return self.mtime_ns < 1_000_000_000

    @property
    def is_coarse(self) -> bool:
        """Whether the file system seems to keep whole seconds only."""
        return self.ctime_ns % 1_000_000_000 == 0

    def unchanged_since(self, earlier: Reading) -> bool:
        """Whether it is the same, also across a reboot, which may number the devices anew."""
        return self[1:] == earlier[1:]


Readings = tuple[tuple[str, Reading], ...]
"""Sorted pairs of a path, relative to the inbox or to what mirrors it, and the reading there."""


class Survey(NamedTuple):
    """What lies in a job folder.

    Attributes:
        readings: the regular files; when they are too many, only its job file.
        irregular: paths and (device, inode) of links, devices, FIFOs and sockets.
        partial: the path of a file that some program is still uploading, if there is one.
        too_many: there are more entries, or they lie deeper, than a job may have.
    """

    readings: Readings
    irregular: tuple[tuple[str, int, int], ...] = ()
    partial: str | None = None
    too_many: bool = False


class _TooDeepError(Exception):
    """Folders lie in folders deeper than is looked at."""


def read_file(name: str, dir_fd: int) -> Reading | None:
    """The reading of a regular file; None for anything else, and for nothing."""
    status = read_status(name, dir_fd)
    return Reading.of(status) if status is not None and stat.S_ISREG(status.st_mode) else None


def read_status(name: str, dir_fd: int) -> os.stat_result | None:
    """The status of whatever has this name, links not followed; None when there is nothing (any more)."""
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise


def survey(name: str, dir_fd: int, prefix: str = "") -> Survey:
    """Look through the job folder `name`; paths in the result start with `prefix`.

    Raises:
        OSError: the folder, or one inside, cannot be read, or is gone.
    """
    try:
        found = list(islice(_walk(name, dir_fd, prefix, MAX_DEPTH), MAX_ENTRIES + 1))
    except _TooDeepError:
        return _only_job_file(name, dir_fd, prefix)
    if len(found) > MAX_ENTRIES:
        return _only_job_file(name, dir_fd, prefix)
    return Survey(
        tuple(sorted((path, Reading.of(status)) for path, status in found if stat.S_ISREG(status.st_mode))),
        tuple((path, status.st_dev, status.st_ino) for path, status in found if _is_irregular(status.st_mode)),
        next((path for path, _ in found if names.is_partial(path.rpartition("/")[2])), None),
    )


def _only_job_file(name: str, dir_fd: int, prefix: str) -> Survey:
    reading = read_file(f"{name}/{names.JOB_FILE}", dir_fd)
    path = f"{prefix}{name}/{names.JOB_FILE}"
    return Survey(((path, reading),) if reading else (), too_many=True)


def _is_irregular(mode: int) -> bool:
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def read_job(root: Path, relative: str) -> Readings:
    """The readings of the job that lies at `relative`: a folder with all its files, or a file and a text's picture.

    Raises:
        OSError: the folder that it lies in cannot be read. A missing job just has no readings.
    """
    parent, slash, name = relative.rpartition("/")
    with folder_beneath(root, parent) as folder:
        status = read_status(name, folder)
        if status is None:
            return ()
        if stat.S_ISDIR(status.st_mode):
            return survey(name, folder, parent + slash).readings
        return tuple(sorted(_read_with_picture(name, folder, parent + slash)))


def digest(readings: Readings) -> str:
    """A hex digest over what taking a job does not change: names, sizes, modification times, inodes."""
    sha256 = hashlib.sha256()
    for path, reading in sorted(readings):
        sha256.update(os.fsencode(path) + b"\0" + repr(tuple(reading[1:4])).encode())
    return sha256.hexdigest()


NOTHING = digest(())
"""The fingerprint of a job that is not there."""


def fingerprint(root: Path, relative: str) -> str:
    """`digest` of the job at `relative` as it lies on disk now: it differs once an upload has gone on."""
    return digest(read_job(root, relative))


def _read_with_picture(name: str, dir_fd: int, prefix: str) -> Iterator[tuple[str, Reading]]:
    if reading := read_file(name, dir_fd):
        yield prefix + name, reading
    if names.kind_by_suffix(name) is names.Kind.TEXT and (picture := _first(names.picture_names(name), dir_fd)):
        yield prefix + picture[0], picture[1]


def _first(candidates: Iterable[str], dir_fd: int) -> tuple[str, Reading] | None:
    for name in candidates:
        if reading := read_file(name, dir_fd):
            return name, reading
    return None


def _walk(name: str, dir_fd: int, prefix: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, links not followed, as (path, status)."""
    if depth == 0:
        raise _TooDeepError
    folder = open_folder(name, dir_fd)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{prefix}{name}/{entry.name}"
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    yield from _walk(entry.name, folder, f"{prefix}{name}/", depth - 1)
    finally:
        os.close(folder)
