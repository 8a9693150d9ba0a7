"""The folders: whether they are there or can be made, may be used, lie where they should, and have room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from atenea.config import Config
from atenea.control import LEDGER
from atenea.finding import Finding
from atenea.inbox.hints import Hints
from atenea.plugin_files import user_name

_READ, _WRITE = os.R_OK | os.X_OK, os.R_OK | os.W_OK | os.X_OK
_MADE = {"inbox": _WRITE, "outbox": _WRITE, "state": _WRITE, "cache": _WRITE}
"""What atenea must be allowed in the folders that it makes."""

_OPTIONAL = {"assets": _READ, "plugins": _READ}
"""The same for those that need not be there."""

_OWN_FILES = (LEDGER, "daemon.lock", "workers.lock")
"""In the state folder: a daemon of another user may have left them."""


def folder_findings(config: Config) -> Iterator[Finding]:
    """Look at the folders as the user who runs this."""
    for name, mode in _MADE.items():
        yield made_folder(name, getattr(config.paths, name), mode)
    for name, mode in _OPTIONAL.items():
        path = getattr(config.paths, name)
        if os.path.lexists(path):
            yield _there(name, path, mode)
    yield from own_files(config.paths.state)
    yield from other_user(config.paths.state)
    yield from one_mount(config.paths.inbox, config.paths.state)
    yield from events(config)


def made_folder(name: str, path: Path, mode: int) -> Finding:
    """Whether the folder `paths.NAME` can be used, or made."""
    if os.path.lexists(path):
        return _there(name, path, mode)
    parent = existing(path)
    if not os.path.isdir(parent):
        return Finding(name, "problem", f"{path} cannot be made: {parent} is no folder", _elsewhere(name))
    if not os.access(parent, os.X_OK, effective_ids=True):
        text = f"{path} cannot be reached by {_user()}: {_obstacle(parent, os.X_OK)}"
        return Finding(name, "problem", text, f"let that user enter {parent} (chmod), or {_elsewhere(name)}")
    if not os.access(parent, os.W_OK, effective_ids=True):
        text = f"{path} is not there, and {_user()} cannot make it: {_obstacle(parent, os.W_OK)}"
        return Finding(name, "problem", text, f"sudo install -d -o {_user()} {path}, or {_elsewhere(name)}")
    return Finding(name, "ok", f"{path} is not there yet, and will be made")


def _there(name: str, path: Path, mode: int) -> Finding:
    try:
        facts = path.stat()
    except OSError as error:
        return Finding(name, "problem", f"{path} cannot be looked at: {error.strerror}", _elsewhere(name))
    if not stat.S_ISDIR(facts.st_mode):
        return Finding(name, "problem", f"{path} is no folder", f"move it away, or {_elsewhere(name)}")
    if not os.access(path, mode, effective_ids=True):
        what = "read and written" if mode & os.W_OK else "read"
        text = f"{path} cannot be {what} by {_user()}: {_obstacle(path, mode)}"
        return Finding(name, "problem", text, f"let that user do it (chown, chmod), or {_elsewhere(name)}")
    return Finding(name, "ok", str(path))


def own_files(state: Path) -> Iterator[Finding]:
    """Whether the daemon's own files in the state folder may be written."""
    for file in (state / name for name in _OWN_FILES):
        if os.path.isfile(file) and not os.access(file, os.R_OK | os.W_OK, effective_ids=True):
            text = f"{file} cannot be read and written by {_user()}: {_obstacle(file, os.R_OK | os.W_OK)}"
            yield Finding("state", "problem", text, f"sudo chown -R {_user()} {state}, or run this as the owner")


def other_user(state: Path) -> Iterator[Finding]:
    """Whether the daemon is likely to run as somebody else, for whom all this may look different."""
    place = existing(state)
    may_be_there = place == state or not os.access(place, os.X_OK, effective_ids=True)
    owner = place.stat().st_uid
    if may_be_there and owner != os.geteuid():
        text = f"this was looked at as {_user()}, and {place} belongs to {user_name(owner)}"
        yield Finding("user", "note", text, f"run it as the daemon's user: sudo -u {user_name(owner)} atenea doctor")


def one_mount(inbox: Path, state: Path) -> Iterator[Finding]:
    """Whether a job can be moved out of the inbox by a rename."""
    if _mount(existing(inbox)) != _mount(existing(state)):
        text = f"{inbox} and {state} are on different file systems, so jobs are copied, not moved"
        yield Finding("rename", "note", text, "set paths.state to a folder beside the inbox, if jobs are large or many")


def events(config: Config) -> Iterator[Finding]:
    """Whether the kernel tells of new files in the inbox; watches it for a moment, as the daemon does."""
    told: list[str] = []
    inbox, watch = config.paths.inbox, config.watch
    if watch.polling:
        text = f"watch.polling is set: the inbox is looked through every {watch.rescan_seconds:g} s"
        yield Finding("events", "ok", text)
        return
    if not (os.path.isdir(inbox) and os.access(inbox, _READ, effective_ids=True)):
        return
    hints = Hints(inbox, (), lambda: None, report=told.append)
    try:
        hints.start()
    finally:
        hints.stop()
    if told:
        yield Finding(
            "events",
            "note",
            f"{told[0]}, every {watch.rescan_seconds:g} s",
            "set watch.settle_seconds to the longest pause of an upload (docs/inbox.md)",
        )


def existing(path: Path) -> Path:
    """The path itself, or the nearest one above it that is there, and can be seen."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def _mount(path: Path) -> tuple[int, str]:
    """What only paths share between which a rename works: the file system, and where it is mounted."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev, _mount_number(descriptor)
    finally:
        os.close(descriptor)


def _mount_number(descriptor: int) -> str:
    """Of the mount that an open file lies on; empty when the kernel does not tell."""
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="utf-8")
    except OSError:
        return ""
    return next((line for line in facts.splitlines() if line.startswith("mnt_id")), "")


def _obstacle(path: Path, mode: int) -> str:
    """Why a path may not be used so, as far as can be told."""
    try:
        if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
            return f"{path} is on a file system that is mounted read-only"
        facts = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path} belongs to {user_name(facts.st_uid)} and has the mode {stat.S_IMODE(facts.st_mode):04o}"


def _user() -> str:
    return user_name(os.geteuid())


def _elsewhere(name: str) -> str:
    return f"set paths.{name} to another folder"
