"""The folders: whether they are there or can be made, may be used, lie where they should, and have room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from atenea.access import READ, WRITE, closed_caches, elsewhere, let_in, may, obstacle, refusal, this_user
from atenea.config import Config, Paths
from atenea.finding import Finding
from atenea.inbox.hints import Hints
from atenea.ledger_file import LEDGER
from atenea.places import SERVICE_FILE
from atenea.plugin_files import user_name

_MADE = {"inbox": WRITE, "outbox": WRITE, "state": WRITE, "cache": WRITE, "assets": READ}
"""What atenea must be allowed in the folders that it makes."""

_OPTIONAL = {"plugins": READ}
"""The same for those that need not be there."""

_OWN_FILES = (LEDGER, "daemon.lock", "workers.lock")
"""In the state folder: a daemon of another user may have left them."""


def folder_findings(config: Config) -> Iterator[Finding]:
    """Look at the folders as the user who runs this."""
    strange = list(other_user(config.paths.state))
    # What the service's user may do cannot be told from here, and to let this one do it would shut that one out.
    if not (strange and config.file == SERVICE_FILE and os.geteuid()):
        yield from _usable(config.paths)
    yield from strange
    yield from one_mount(config.paths.inbox, config.paths.state)
    yield from events(config)


def _usable(paths: Paths) -> Iterator[Finding]:
    for name, mode in _MADE.items():
        yield made_folder(name, getattr(paths, name), mode)
    for name, mode in _OPTIONAL.items():
        path = getattr(paths, name)
        if os.path.lexists(path):
            yield _there(name, path, mode)
    yield from plugin_caches(paths.cache)
    yield from own_files(paths.state)


def made_folder(name: str, path: Path, mode: int) -> Finding:
    """Whether the folder `paths.NAME` can be used, or made."""
    if os.path.lexists(path):
        return _there(name, path, mode)
    parent = existing(path)
    if not os.path.isdir(parent):
        return Finding(name, "problem", f"{path} cannot be made: {parent} is no folder", elsewhere(name))
    if not may(parent, os.X_OK):
        text = f"{path} cannot be reached by {this_user()}: {obstacle(parent, os.X_OK)}"
        return Finding(name, "problem", text, f"let that user enter {parent} (chmod), or {elsewhere(name)}")
    if not may(parent, os.W_OK):
        text = f"{path} is not there, and {this_user()} cannot make it: {obstacle(parent, os.W_OK)}"
        return Finding(name, "problem", text, f"sudo install -d -o {this_user()} {path}, or {elsewhere(name)}")
    return Finding(name, "ok", f"{path} is not there yet, and will be made")


def _there(name: str, path: Path, mode: int) -> Finding:
    try:
        facts = path.stat()
    except OSError as error:
        return Finding(name, "problem", f"{path} cannot be looked at: {error.strerror}", elsewhere(name))
    if not stat.S_ISDIR(facts.st_mode):
        return Finding(name, "problem", f"{path} is no folder", f"move it away, or {elsewhere(name)}")
    if not may(path, mode):
        return Finding(name, "problem", refusal(path, mode), let_in(name))
    return Finding(name, "ok", str(path))


def plugin_caches(cache: Path) -> Iterator[Finding]:
    """Whether the folders may be written that plugins have in the cache: another user's jobs may have left them."""
    for folder in closed_caches(cache):
        if folder != cache:
            yield Finding("cache", "problem", refusal(folder, WRITE), let_in("cache"))


def own_files(state: Path) -> Iterator[Finding]:
    """Whether the daemon's own files in the state folder may be written."""
    for file in (state / name for name in _OWN_FILES):
        if os.path.isfile(file) and not may(file, os.R_OK | os.W_OK):
            cure = f"sudo chown -R {this_user()} {state}, or run this as the owner"
            yield Finding("state", "problem", refusal(file, os.R_OK | os.W_OK), cure)


def other_user(state: Path) -> Iterator[Finding]:
    """Whether the daemon is likely to run as somebody else, for whom all this may look different."""
    place = existing(state)
    may_be_there = place == state or not may(place, os.X_OK)
    owner = place.stat().st_uid
    if may_be_there and owner != os.geteuid():
        text = f"this was looked at as {this_user()}, and {place} belongs to {user_name(owner)}"
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
    if not (os.path.isdir(inbox) and may(inbox, READ)):
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
