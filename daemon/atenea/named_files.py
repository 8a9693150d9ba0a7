"""The files that a job names: looked up, waited for until they do not change any more, and copied into the job."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from atenea.inbox.nofollow import open_beneath
from atenea.inbox.readings import Reading
from atenea.naming import printable, shortened

_CHUNK = 1 << 20

NOT_ALLOWED = "may not be read by atenea; run chmod g+r on it, and drop the job again"
"""The end of a sentence about a file whose owner keeps it to himself."""


class Place(NamedTuple):
    """Where files are looked up: a folder, and one below it, which others could exchange for a link."""

    root: Path
    below: str = ""

    def open(self, name: str) -> BinaryIO:
        """The file of this name; raises as `open_beneath` does."""
        return os.fdopen(open_beneath(self.root, f"{self.below}/{name}" if self.below else name), "rb")


class NamedFile(NamedTuple):
    """A file that a job names: by which key, by which name, and where it is looked up, nearest first."""

    key: str
    name: str
    places: tuple[Place, ...]

    @property
    def shown(self) -> str:
        """What a sentence about it begins with."""
        return f"{self.key}: {shortened(repr(self.name))}"


class NamedFiles:
    """Looks at all the files first, and copies them only when all are there and settled.

    Args:
        previous: readings of the files at the last look: one is settled when it did not change since.
        at_once: take the files as they are; nobody is writing them.
        most_bytes: the largest file that is copied.
        copies: the folder for the copies. One that an earlier attempt left there stands in for a file that is gone.

    Attributes:
        mistakes: a sentence for each file that will not be used, whatever happens.
        waiting: names of files that are missing, with None, or still change, with their readings.
        hashes: SHA-256 of what was copied, by key.
    """

    def __init__(self, previous: Mapping[str, Any], *, at_once: bool, most_bytes: int, copies: Path) -> None:
        self._previous = previous
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._copies = copies
        self._new, self._old = (copies.with_name(f"{copies.name}.{which}") for which in ("new", "old"))
        self.mistakes: list[str] = []
        self.waiting: dict[str, list[int] | None] = {}
        self.hashes: dict[str, str] = {}

    def look(self, files: list[NamedFile]) -> None:
        """Find out which files cannot be used, and which must be waited for."""
        self._put_right()
        for file in files:
            found = self._open(file)
            if found:
                with found:
                    self._judge(file, _reading(found))

    def copy(self, files: list[NamedFile]) -> dict[str, Path]:
        """Copy the files, each into a folder named by its key; where they are, by key.

        One that changed since the look is waited for again, and then the copies of before stay.
        """
        self._new.mkdir()
        copied = [file for file in files if self._copy(file, self._new)]
        if self.waiting:
            return {}
        # Not removed first: they may be the only ones by now.
        if self._copies.exists():
            self._copies.rename(self._old)
        self._new.rename(self._copies)
        shutil.rmtree(self._old, ignore_errors=True)
        return {file.key: _place(self._copies, file.key, file.name) for file in copied}

    def _put_right(self) -> None:
        """Go on from where a crash has left the copies."""
        shutil.rmtree(self._new, ignore_errors=True)
        if self._copies.exists():
            shutil.rmtree(self._old, ignore_errors=True)
        elif self._old.exists():
            self._old.rename(self._copies)

    def _open(self, file: NamedFile) -> BinaryIO | None:
        for place in file.places:
            try:
                return place.open(file.name)
            except FileNotFoundError:
                continue
            except PermissionError:
                self.mistakes.append(f"{file.shown} {NOT_ALLOWED}")
                return None
            except OSError as error:
                reason = f"is no plain file beside the job or in the assets folder ({error.strerror})"
                self.mistakes.append(f"{file.shown} {reason}")
                return None
        with suppress(OSError):
            copy = _place(self._copies, file.key, file.name)
            return os.fdopen(open_beneath(self._copies, str(copy.relative_to(self._copies))), "rb")
        self.waiting[file.name] = None
        return None

    def _judge(self, file: NamedFile, reading: list[int]) -> None:
        if reading[2] > self._most_bytes:
            self.mistakes.append(f"{file.shown} is larger than {self._most_bytes:,} bytes")
        elif not self._at_once and self._previous.get(file.name) != reading:
            self.waiting[file.name] = reading

    def _copy(self, file: NamedFile, target: Path) -> bool:
        source = self._open(file)
        if source is None:
            return False
        path = copy_path(target, file.key, file.name)
        digest = hashlib.sha256()
        with source, path.open("wb") as copy:
            before = _reading(source)
            left = min(before[2], self._most_bytes)  # one that grows as fast as it is read would have no end
            while chunk := source.read(min(_CHUNK, left)):
                copy.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
            copy.flush()
            os.fsync(copy.fileno())
            after = _reading(source)
        if after != before or left or not (self._at_once or self._previous.get(file.name) == after):
            self.waiting[file.name] = after
            return False
        self.hashes[file.key] = digest.hexdigest()
        return True


def copy_path(target: Path, key: str, name: str) -> Path:
    """Where the copy of a named file goes: under its own name, which sentences show, as far as JSON can hold it."""
    path = _place(target, key, name)
    path.parent.mkdir()
    return path


def _place(target: Path, key: str, name: str) -> Path:
    return target / key / printable(PurePosixPath(name).name)


def _reading(file: BinaryIO) -> list[int]:
    return list(Reading.of(os.fstat(file.fileno())))
