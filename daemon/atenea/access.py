"""What this process may do with a folder, and if it may not, why: for the daemon, its workers and `atenea doctor`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from atenea.plugin_files import user_name

READ, WRITE = os.R_OK | os.X_OK, os.R_OK | os.W_OK | os.X_OK
"""What it takes to read files in a folder, and to write them too."""


def may(path: Path, mode: int) -> bool:
    """Whether this user may use the path so; not if it is missing."""
    return os.access(path, mode, effective_ids=True)


def refusal(path: Path, mode: int) -> str:
    """A sentence, without what to do, about a path that may not be used so."""
    what = "read and written" if mode & os.W_OK else "read"
    return f"{path} cannot be {what} by {this_user()}: {obstacle(path, mode)}"


def obstacle(path: Path, mode: int) -> str:
    """Why a path may not be used so, as far as can be told."""
    try:
        if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
            return f"{path} is on a file system that is mounted read-only"
        facts = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path} belongs to {user_name(facts.st_uid)} and has the mode {stat.S_IMODE(facts.st_mode):04o}"


def this_user() -> str:
    """The name of the user who this process acts as."""
    return user_name(os.geteuid())


def let_in(name: str) -> str:
    """What to do about a folder `paths.NAME` that this user may not use."""
    return f"let that user do it (chown, chmod), or {elsewhere(name)}"


def elsewhere(name: str) -> str:
    """What else can be done about the folder `paths.NAME`."""
    return f"set paths.{name} to another folder"


def closed_caches(cache: Path) -> list[Path]:
    """The cache if it may not be written, or else those folders in it that may not: each is a plugin's."""
    if not (cache.is_dir() and may(cache, WRITE)):
        return [cache]
    return sorted(folder for folder in cache.iterdir() if folder.is_dir() and not may(folder, WRITE))
