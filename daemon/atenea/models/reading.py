"""When files of a models folder were last read whole and found right: for `atenea doctor`, which cannot take so long.

A file that has the size, time of change and inode that it had then counts as unchanged. That finds what was exchanged,
edited or copied; what a disk damages by itself, only reading finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from atenea import durable
from atenea.models.lockfile import LockedFile

READ_FILE = ".read.json"

Traits = tuple[int, int, int]
"""Size in bytes, time of change in nanoseconds, inode."""


class Reading(BaseModel):
    """A file as it was when its content was found right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    traits: Traits
    sha256: str
    day: date
    """UTC."""


class _Readings(BaseModel):
    """The content of `.read.json`, by path relative to the models folder."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, Reading] = {}


def traits(folder: Path, paths: Iterable[str]) -> dict[str, Traits]:
    """Of those files that are there; to be taken before they are read."""
    found: dict[str, Traits] = {}
    for path in paths:
        with suppress(OSError):
            status = (folder / path).stat()
            found[path] = status.st_size, status.st_mtime_ns, status.st_ino
    return found


def note_readings(folder: Path, before: Mapping[str, Traits], right: Mapping[str, LockedFile]) -> None:
    """Note which files were read whole and found right; nothing, if this user may not write the folder.

    Args:
        folder: of the models.
        before: of all files that were read, from before that. One that has changed meanwhile is not noted.
        right: those that were found right.
    """
    readings, today = _readings(folder), datetime.now(UTC).date()
    for path in before:
        readings.pop(path, None)
    for path, now in traits(folder, right).items():
        if before.get(path) == now:
            readings[path] = Reading(traits=now, sha256=right[path].sha256, day=today)
    with suppress(OSError):
        durable.write_atomic(folder / READ_FILE, _Readings(files=readings).model_dump_json(indent=2).encode() + b"\n")


def days_of_reading(folder: Path, files: Mapping[str, LockedFile]) -> dict[str, date | None]:
    """When each file was read whole and was `files[path]`; None if it never was, or has changed since."""
    readings, now = _readings(folder), traits(folder, files)
    return {
        path: reading.day
        if (reading := readings.get(path)) and (reading.traits, reading.sha256) == (now.get(path), file.sha256)
        else None
        for path, file in files.items()
    }


def _readings(folder: Path) -> dict[str, Reading]:
    """What was noted; nothing where that cannot be read, because the files can be read again."""
    try:
        return _Readings.model_validate_json((folder / READ_FILE).read_bytes()).files
    except (OSError, ValidationError):
        return {}
