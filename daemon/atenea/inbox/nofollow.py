"""Opening files that others put in place: never through a symbolic link, never a device, FIFO or socket.

What stays possible is a hard link to a file that its maker may not read; the kernel's `fs.protected_hardlinks` is for
that.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atenea import durable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_REGULAR = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(path: Path | str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading; only the last component is sure to be no link.

    Raises:
        OSError: with ELOOP for a symbolic link, with EINVAL for anything else that is no regular file.
    """
    # Looked at before, because opening a device can do something; and after, because it may have been swapped.
    _check_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=False), path)
    fd = os.open(path, _REGULAR, dir_fd=dir_fd)
    try:
        _check_regular(os.fstat(fd), path)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_beneath(root: Path, relative: str) -> int:
    """Open the regular file `relative` for reading; below `root` no component may be a symbolic link.

    Raises:
        OSError: as `open_regular`; ELOOP or ENOTDIR also for a component; EINVAL for an absolute path or one with `..`.
    """
    parent, _, name = relative.rpartition("/")
    _components(relative)
    with folder_beneath(root, parent) as folder:
        return open_regular(name, dir_fd=folder)


def open_folder_beneath(root: Path, relative: str = "") -> int:
    """Open the folder `relative`; below `root`, which may be a link itself, no component may be one.

    Raises:
        OSError: ENOTDIR or ELOOP for a link or a file on the way; EINVAL for an absolute path or one with `..`.
    """
    components = _components(relative) if relative else []
    fd = os.open(root, _FOLDER)
    for component in components:
        try:
            deeper = open_folder(component, fd)
        finally:
            os.close(fd)
        fd = deeper
    return fd


@contextmanager
def folder_beneath(root: Path, relative: str = "") -> Iterator[int]:
    """`open_folder_beneath`, closed at the end."""
    fd = open_folder_beneath(root, relative)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def folder_made_beneath(root: Path, relative: str) -> Iterator[int]:
    """`folder_beneath`, where the folders on the way are made that are missing."""
    fd = os.open(root, _FOLDER)
    try:
        for component in _components(relative):
            durable.make_folder(component, dir_fd=fd)
            deeper = open_folder(component, fd)
            os.close(fd)
            fd = deeper
        yield fd
    finally:
        os.close(fd)


def open_folder(name: str, dir_fd: int) -> int:
    """Open a folder that is not a symbolic link."""
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=dir_fd)


def _check_regular(status: os.stat_result, path: Path | str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "is a symbolic link", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))


def _components(relative: str) -> list[str]:
    components = relative.split("/")
    if any(component in {"", ".", ".."} for component in components) or "\0" in relative:
        raise OSError(errno.EINVAL, "is not a path inside the folder", relative)
    return components
