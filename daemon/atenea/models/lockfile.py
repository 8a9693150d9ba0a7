"""What was fetched into a models folder: the commit it came from, and the size and SHA-256 of every file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atenea import durable
from atenea.errors import AteneaError, BusyError, UsageError

LOCK_FILE = "models.lock.json"
_IN_USE = ".download.lock"


class LockedFile(BaseModel):
    """A file as it was when it was fetched and found right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0)
    """In bytes."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Lock(BaseModel):
    """The content of `models.lock.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    repository: str
    commit: str
    files: Mapping[str, LockedFile] = {}
    """By path relative to the models folder."""


def read_lock(folder: Path) -> Lock | None:
    """The lock of a models folder; None if nothing was ever fetched into it.

    Raises:
        AteneaError: it cannot be read, or is no lock.
    """
    path = folder / LOCK_FILE
    try:
        return Lock.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AteneaError(f"{path}: cannot be read: {error.strerror}; let this user read it") from None
    except ValidationError:
        raise AteneaError(f"{path}: is damaged; remove it and run atenea models download") from None


def write_lock(folder: Path, lock: Lock) -> None:
    """Write the lock so that a crash leaves the old one or the new one, whole."""
    durable.write_atomic(folder / LOCK_FILE, lock.model_dump_json(indent=2).encode() + b"\n")


@contextmanager
def only_downloader(folder: Path) -> Iterator[None]:
    """Keep other downloads out of a models folder, which is made if it is missing.

    Raises:
        BusyError: another download is at work there.
        UsageError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _IN_USE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise UsageError(
            f"{folder}: models cannot be put there: {error.strerror}; let this user write it, or set paths.models"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: another atenea models download is at work there; wait until it ends") from None
        yield
    finally:
        os.close(descriptor)
