"""Puts a finished job's files into the outbox: each complete the moment it appears, none ever replaced.

The order makes a crash at any point harmless: the files are staged beside their final place under hidden names and
synced, the ledger learns their hashes, then they are renamed, the video last. After a crash, a file that is already
there with the recorded hash counts as published.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

from atenea import durable
from atenea.context import RESERVED_SUFFIXES
from atenea.ledger import Ledger
from atenea.rows import JobRow

HIDDEN_PREFIX = ".atenea-"
_ERROR = ".error.txt"


class Publisher:
    """Publishes into one outbox; one call at a time."""

    def __init__(self, outbox: Path, ledger: Ledger) -> None:
        self._outbox = outbox
        self._ledger = ledger

    def publish(self, job: JobRow, files: Mapping[str, Path]) -> dict[str, Path]:
        """Publish files by their suffixes; where each one is now."""
        hashes = {suffix: durable.sha256_file(path) for suffix, path in files.items()}
        arrived = self._arrived(job, hashes)
        hidden = {suffix: self._stage(job, suffix, path) for suffix, path in files.items() if suffix not in arrived}
        stem = self.claim_stem(job, files)
        self._ledger.publish(job, stem=stem, hashes=hashes)
        while not self._show(stem, hidden):
            stem = self._move_on(job, stem, hidden, hashes)
        durable.fsync_folder(self._outbox)
        return {suffix: self._outbox / f"{stem}{suffix}" for suffix in files}

    def claim_stem(self, job: JobRow, suffixes: Iterable[str] = ()) -> str:
        """The stem of the job's files: its own from before, or the first that no file in the outbox has."""
        return job.stem or self._free_stem(job.name, {*suffixes, *RESERVED_SUFFIXES})

    def withdraw(self, job: JobRow) -> None:
        """Remove the answer to an earlier failure of the job, unless something else has its name by now."""
        answer = self._outbox / f"{job.stem}{_ERROR}"
        if _ERROR in job.outputs and answer.is_file() and durable.sha256_file(answer) == job.outputs[_ERROR]:
            durable.remove_file(answer)

    def tidy(self) -> None:
        """Remove what a crash left staged; jobs that are still to be published are staged again."""
        for entry in list(os.scandir(self._outbox)):
            if entry.name.startswith(HIDDEN_PREFIX) and not entry.is_dir(follow_symlinks=False):
                durable.remove_file(entry.path)

    def _arrived(self, job: JobRow, hashes: Mapping[str, str]) -> set[str]:
        """What an earlier attempt at publishing has already brought into the outbox."""
        if job.publishing is None or job.stem is None:
            return set()
        places = {suffix: self._outbox / f"{job.stem}{suffix}" for suffix in job.publishing}
        return {
            suffix
            for suffix, place in places.items()
            if place.is_file() and durable.sha256_file(place) == job.publishing[suffix] == hashes.get(suffix)
        }

    def _stage(self, job: JobRow, suffix: str, source: Path) -> Path:
        hidden = self._hidden(job, suffix)
        durable.remove_file(hidden)
        durable.link_or_copy(source, hidden)
        return hidden

    def _hidden(self, job: JobRow, suffix: str) -> Path:
        return self._outbox / f"{HIDDEN_PREFIX}{job.id}{suffix}"

    def _show(self, stem: str, hidden: dict[str, Path]) -> bool:
        """Give the staged files their names, and forget them; False when something else has one of the names."""
        for suffix in sorted(hidden, key=lambda suffix: suffix == ".mp4"):
            try:
                durable.rename_exclusive(hidden[suffix], self._outbox / f"{stem}{suffix}")
            except FileExistsError:
                return False
            del hidden[suffix]
        return True

    def _move_on(self, job: JobRow, stem: str, hidden: dict[str, Path], hashes: Mapping[str, str]) -> str:
        """Another stem for all of the files. First what is shown is hidden again: a crash must not leave it behind."""
        for suffix in hashes.keys() - hidden.keys():
            hidden[suffix] = self._hidden(job, suffix)
            durable.remove_file(hidden[suffix])
            durable.rename_exclusive(self._outbox / f"{stem}{suffix}", hidden[suffix])
        durable.fsync_folder(self._outbox)
        new = self._free_stem(job.name, {*hashes, *RESERVED_SUFFIXES})
        self._ledger.publish(job, stem=new, hashes=hashes)
        return new

    def _free_stem(self, name: str, suffixes: Iterable[str]) -> str:
        stems = (name if number == 1 else f"{name}-{number}" for number in count(1))
        return next(stem for stem in stems if not any(os.path.lexists(self._outbox / f"{stem}{s}") for s in suffixes))
