"""What comes after its job was taken: the rest of an upload that had stalled, and the picture of a text.

A job's original is compared before it is read and before its first stage. What comes late is brought into it first, so
that the comparison sees it. A file that was moved into the original is written there by whoever has it open. One that
had to be copied lies in the hidden folder `INBOX/.atenea-ID`, the job's rest, as long as more may come.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atenea import durable
from atenea.inbox import names
from atenea.inbox.names import Kind
from atenea.inbox.nofollow import folder_beneath, folder_made_beneath, open_beneath, open_folder_beneath
from atenea.inbox.readings import read_file, read_job, read_status

NO_RENAME = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EROFS})

REST = threading.Lock()
"""Held by whoever brings what came late, and by whoever removes a job's rest: they are different threads."""

_BROUGHT = ".brought"


def rest_folder(inbox: Path, job_id: str) -> Path:
    """Where the sources of a copied job lie as long as somebody may write more into them; it mirrors the inbox."""
    return inbox / f".atenea-{job_id}"


@contextmanager
def opened_rest(rest: Path) -> Iterator[Path | None]:
    """A path that is the job's rest until the end, whatever is put in its place; None where there is no such folder.

    Others may write into the inbox, and could have exchanged the folder for a link.
    """
    try:
        folder = open_folder_beneath(rest.parent, rest.name)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield Path(f"/proc/self/fd/{folder}")
    finally:
        os.close(folder)


def put_into(rest: Path, path: str, name: str, folder: int) -> None:
    """Move the file `name` of an open folder into a job's rest, to `path` there."""
    parent = os.path.dirname(os.path.join(rest.name, path))
    with folder_made_beneath(rest.parent, parent) as target:
        durable.rename_exclusive(name, os.path.basename(path), src_dir_fd=folder, dst_dir_fd=target)


def bring_rest(rest: Path, original: Path, relative: str) -> None:
    """Copy again what has other content than its copy. The copies of two files may be of different moments."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for path, _ in read_job(rest, relative):
            _copy_again(rest, path, original)


def bring_picture(
    inbox: Path, original: Path, relative: str, *, arrived_before: float, before_copy: Callable[[], Path]
) -> bool:
    """Move the picture that came soon after its text to it; whether there was one.

    Args:
        inbox: the inbox.
        original: the folder with the text, which mirrors the inbox.
        relative: the text's path in either.
        arrived_before: later pictures are the next text's of that name.
        before_copy: called where it must be copied; returns the job's rest.
    """
    parent, _, text = relative.rpartition("/")
    if names.kind(text) is not Kind.TEXT or len(read_job(original, relative)) != 1:
        return False
    with suppress(FileNotFoundError, NotADirectoryError), folder_beneath(inbox, parent) as folder:
        if read_status(text, folder) is not None:
            return False
        for name in names.picture_names(text):
            reading = read_file(name, folder)
            if reading is not None and reading.ctime_ns / 1e9 <= arrived_before:
                _move(name, folder, original, os.path.join(parent, name), before_copy)
                durable.sync_all([original / parent, inbox / parent])
                return True
    return False


def _move(name: str, folder: int, original: Path, path: str, before_copy: Callable[[], Path]) -> None:
    try:
        durable.rename_exclusive(name, original / path, src_dir_fd=folder)
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise
        rest = before_copy()
        put_into(rest, path, name, folder)
        with opened_rest(rest) as opened:
            if opened:
                _copy_again(opened, path, original)


def _copy_again(rest: Path, path: str, original: Path) -> None:
    target = original / path
    brought = original.parent / _BROUGHT
    fd = open_beneath(rest, path)
    try:
        if target.exists() and durable.sha256_file(fd) == durable.sha256_file(target):
            return
        durable.remove_file(brought)
        durable.copy_synced(fd, brought)
    finally:
        os.close(fd)
    durable.replace(brought, target)
