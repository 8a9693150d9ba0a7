"""The file operations that must survive a crash or a power cut, and every change that the inbox makes on disk.

Code that promises durability changes files through this module alone, so that a test can put a layer of faults under
it: in here every system call is an attribute of `os`, of `_renameat2` or of `_syncfs`. Errors are `OSError` with errno
and file name.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_CHUNK = 1 << 20
_FEW = 8
"""Up to this many paths are synced one by one; above, one sync of the file system is cheaper."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH_RENAME = frozenset({errno.EINVAL, errno.ENOSYS})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_libc = ctypes.CDLL(None, use_errno=True)


def _from_libc(name: str, *arguments: type[Any]) -> Callable[..., int]:
    """A function of the C library that returns 0 or an errno; ENOSYS where the library lacks it."""
    function = getattr(_libc, name, None)
    if function is None:
        return lambda *_: errno.ENOSYS
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return lambda *values: ctypes.get_errno() if function(*values) else 0


_renameat2 = _from_libc("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _from_libc("syncfs", ctypes.c_int)


def fsync_file(path: Path) -> None:
    """Wait until the file's content is on the disk; its name is its folder's matter."""
    _fsync(path, _READ)


def fsync_folder(path: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    try:
        _fsync(path, _READ_FOLDER)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; they have nothing to wait for.
        if error.errno != errno.EINVAL:
            raise


def sync_all(paths: Sequence[Path]) -> None:
    """Wait until files and folders are on the disk, in this order while they are few."""
    if len(paths) > _FEW:
        _sync_file_systems(paths)
        return
    for path in paths:
        try:
            if path.is_dir():
                fsync_folder(path)
            else:
                fsync_file(path)
        except PermissionError:
            # An owner may have forbidden us to open the file, but not to own what it is in.
            _sync_file_systems([path.parent])


def rename_exclusive(
    src: Path | str, dst: Path | str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """Rename a file or folder; relative paths start at the descriptors, where they are given.

    Raises:
        FileExistsError: `dst` exists, be it a dangling link or an empty folder.
    """
    code = _renameat2(
        _AT_FDCWD if src_dir_fd is None else src_dir_fd,
        os.fsencode(src),
        _AT_FDCWD if dst_dir_fd is None else dst_dir_fd,
        os.fsencode(dst),
        _RENAME_NOREPLACE,
    )
    if code in _NO_SUCH_RENAME:
        _rename_without_flag(src, dst, src_dir_fd, dst_dir_fd)
    elif code:
        raise OSError(code, os.strerror(code), os.fspath(src), None, os.fspath(dst))


def replace(src: Path, dst: Path) -> None:
    """Rename a file in the place of another, if there is one, and wait until the name is on the disk."""
    os.replace(src, dst)
    fsync_folder(dst.parent)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write or replace a file: after a crash it holds either the old content or the new, whole."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    fd = os.open(temporary, _CREATE, mode)
    try:
        try:
            _write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(path.parent)


def copy_synced(source: int | Path, destination: Path, mode: int = 0o600) -> None:
    """Copy content and modification time into a new file of this mode, and wait until the content is on the disk.

    A descriptor is read from its start and stays open. The name is durable once the folder is synced.

    Raises:
        FileExistsError: `destination` exists.
    """
    if isinstance(source, int):
        _copy(source, destination, mode)
        return
    fd = os.open(source, _READ)
    try:
        _copy(fd, destination, mode)
    finally:
        os.close(fd)


def sha256_file(source: int | Path) -> str:
    """The hex digest of a file's content; of a descriptor's from where it stands, which stays open."""
    with open(source, "rb", closefd=not isinstance(source, int)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Make a folder in one that exists; one that is there already is fine."""
    with suppress(FileExistsError):
        os.mkdir(path, dir_fd=dir_fd)


def make_folders(path: Path) -> None:
    """Make a folder and all that is missing above it, and wait until their names are on the disk.

    Raises:
        FileExistsError: something else is in the way.
    """
    if path.is_dir():
        return
    make_folders(path.parent)
    make_folder(path)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    try:
        fsync_folder(path.parent)
    except PermissionError:  # one that may be entered, but not read
        _sync_file_system(path)


def link_or_copy(source: Path, destination: Path) -> None:
    """Give a file a second name, or where that is impossible make a copy; its content is on the disk then.

    Raises:
        FileExistsError: `destination` exists.
    """
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        copy_synced(source, destination, stat.S_IMODE(os.stat(source).st_mode))
    fsync_file(destination)


def sync_below(top: Path, files: Iterable[Path]) -> None:
    """Wait until files in a folder of ours, and the names of all folders that lead to them, are on the disk."""
    found = list(files)
    folders = {folder for file in found for folder in file.parents if folder.is_relative_to(top)}
    sync_all([*found, *sorted(folders, reverse=True)])


def remove_file(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove a name that is no folder; a missing one is fine."""
    with suppress(FileNotFoundError):
        os.unlink(path, dir_fd=dir_fd)


def remove_folder(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove an empty folder; a missing one is fine."""
    with suppress(FileNotFoundError):
        os.rmdir(path, dir_fd=dir_fd)


def remove_tree(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Remove a folder with all in it; a missing one is fine.

    No link is followed, whatever is swapped meanwhile.

    Raises:
        NotADirectoryError: `path` is a link, or no folder.
    """
    try:
        folder = os.open(path, _READ_FOLDER | os.O_NOFOLLOW, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            (remove_tree if is_folder else remove_file)(name, dir_fd=folder)
    finally:
        os.close(folder)
    remove_folder(path, dir_fd=dir_fd)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        os.close(fd)


def _sync_file_systems(paths: Iterable[Path]) -> None:
    one_of_each = {path.stat().st_dev: path for path in paths}
    for path in one_of_each.values():
        _sync_file_system(path)


def _sync_file_system(path: Path) -> None:
    folder = path if path.is_dir() else path.parent
    fd = os.open(folder, _READ_FOLDER)
    try:
        code = _syncfs(fd)
    finally:
        os.close(fd)
    if code == errno.ENOSYS:
        os.sync()
    elif code:
        raise OSError(code, os.strerror(code), str(path))


def _rename_without_flag(src: Path | str, dst: Path | str, src_dir_fd: int | None, dst_dir_fd: int | None) -> None:
    """What comes nearest where the file system knows no exclusive rename.

    A file gets its second name, then loses the first: a crash in between leaves both. For folders, and where there are
    no hard links, a look comes before the rename, and only who shares the target folder with others can lose a race.
    """
    if not stat.S_ISDIR(os.stat(src, dir_fd=src_dir_fd, follow_symlinks=False).st_mode):
        try:
            os.link(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
        else:
            _drop_first_name(src, dst, src_dir_fd, dst_dir_fd)
            return
    with suppress(FileNotFoundError):
        os.stat(dst, dir_fd=dst_dir_fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(src), None, os.fspath(dst))
    os.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def _drop_first_name(src: Path | str, dst: Path | str, src_dir_fd: int | None, dst_dir_fd: int | None) -> None:
    try:
        os.unlink(src, dir_fd=src_dir_fd)
    except OSError:
        os.unlink(dst, dir_fd=dst_dir_fd)
        raise


def _copy(source: int, destination: Path, mode: int) -> None:
    fd = os.open(destination, _CREATE, 0o600)
    try:
        try:
            _copy_content(source, fd)
            if mode != 0o600:
                os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(destination)
        if isinstance(error, OSError):
            raise _named(error, destination) from error
        raise


def _copy_content(source: int, destination: int) -> None:
    status = os.fstat(source)
    offset = 0
    # No further than its size was: a file that grows as fast as it is read would have no end.
    while chunk := os.pread(source, min(_CHUNK, status.st_size - offset), offset):
        _write(destination, chunk)
        offset += len(chunk)
    os.utime(destination, ns=(status.st_atime_ns, status.st_mtime_ns))


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _named(error: OSError, path: Path) -> OSError:
    """The same error with the name that a call on a descriptor could not know."""
    if error.filename is not None:
        return error
    return OSError(error.errno, error.strerror, str(path))
