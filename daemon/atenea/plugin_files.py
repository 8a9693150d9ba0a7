"""Whether a plugin file may be loaded: a plugin is code that runs with the daemon's rights.

By the same owners and modes, the configuration and its secrets are trusted too.

A file and its folder are each opened once, without following a symbolic link, and checked on the descriptor that is
then used, so nothing can be exchanged between the check and the reading. Both must belong to root, to the user who
runs this process or to the owner of atenea's own code, and nobody else may write to them. A group may, if it is the
owner's private group: the usual set-up where the umask is 002.

Residual risks, accepted here:

* The folders above the plugins folder are not checked. Who can write there can put another folder in its place, but
  not one that passes: its owner must be trusted too.
* A trusted owner's file with a second name (a hard link) is a trusted file, wherever its first name is.
* An access control list that lets a single user write shows as group permission, and passes for a private group.
* Whether a group is private is what the user database says now; users that it does not enumerate are not seen.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atenea.errors import PermanentError

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class UnsafePluginError(PermanentError):
    """A plugin file or the plugins folder that somebody else could have changed, and the cure."""


def read_plugin(path: Path) -> bytes:
    """The content of a plugin file, once it and its folder passed the checks.

    Raises:
        UnsafePluginError: one of them did not.
        OSError: one of them cannot be read.
    """
    with _opened_folder(path.parent) as folder, _opened_file(path, folder) as file:
        refuse_unsafe(path, os.fstat(file))
        with open(file, "rb", closefd=False) as content:
            return content.read()


def refuse_unsafe(path: Path, facts: os.stat_result) -> None:
    """Raise UnsafePluginError if somebody else could have written the file or folder `path`."""
    if reason := distrusted(path, facts):
        raise UnsafePluginError(f"{path} {reason}")


def distrusted(path: Path, facts: os.stat_result) -> str | None:
    """How somebody else could have written the file or folder `path`, and the cure: the rest of a sentence about it."""
    if reason := owned_by_others(path, facts):
        return reason
    if others := other_writers(facts):
        return f"can be changed by {others}; protect it: chmod go-w {path}"
    return None


def owned_by_others(path: Path, facts: os.stat_result) -> str | None:
    """Who owns the file or folder `path`, as in `distrusted`; None if it is somebody to trust."""
    if facts.st_uid in trusted_owners():
        return None
    return (
        f"belongs to user {user_name(facts.st_uid)}, who is neither root, nor the user running atenea, "
        f"nor the owner of its code; if you trust what is in it: chown root {path}"
    )


def other_writers(facts: os.stat_result) -> str | None:
    """Who else than its owner may write a file or folder by its mode, for a sentence."""
    if facts.st_mode & stat.S_IWOTH:
        return "every user"
    if facts.st_mode & stat.S_IWGRP and not is_private_group(facts.st_gid, facts.st_uid):
        return f"the group {group_name(facts.st_gid)}"
    return None


def trusted_owners() -> frozenset[int]:
    """The users whose files are trusted: root, this process's, and the owner of atenea's code."""
    return frozenset({0, os.geteuid(), Path(__file__).stat().st_uid})


def is_private_group(gid: int, uid: int) -> bool:
    """Whether the group is the user's own primary group, and nobody else is in it."""
    try:
        owner = pwd.getpwuid(uid)
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    members = {*group.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == gid)}
    return owner.pw_gid == gid and members == {owner.pw_name}


def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group's name, or the number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, _OPEN_FLAGS | os.O_DIRECTORY)
    except NotADirectoryError:
        raise UnsafePluginError(
            f"the plugins folder {folder} is a symbolic link or no folder; name the folder itself"
        ) from None
    try:
        refuse_unsafe(folder, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened_file(path: Path, folder: int) -> Iterator[int]:
    try:
        descriptor = os.open(path.name, _OPEN_FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafePluginError(f"{path} is a symbolic link; put the file itself there") from None
        if error.errno == errno.ENXIO:
            raise UnsafePluginError(_no_file(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafePluginError(_no_file(path))
        yield descriptor
    finally:
        os.close(descriptor)


def _no_file(path: Path) -> str:
    return f"{path} is not a regular file; a plugin is one Python file"
