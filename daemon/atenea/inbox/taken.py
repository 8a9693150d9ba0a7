"""A job that was taken from the inbox, as the ledger gets to know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atenea.inbox.readings import Reading, Readings


@dataclass(frozen=True)
class TakenRow:
    """What the ledger keeps of a job that was taken.

    Attributes:
        job_id: its id, and the name of its folder.
        relative: the path of its text, TOML file or folder, relative to the inbox.
        preset: the preset whose folder it lay in.
        name: the file's stem or the folder's name.
        fingerprint: `fingerprint(original, relative)`: it changes when an upload goes on after the job was taken.
        copied: it was taken by copy, and the source may still be in the inbox.
        source: JSON: `device` and `inode` of the file that made it a job, and `readings` of all its files.
        refusal: why it must be refused, in a sentence.
    """

    job_id: str
    relative: str
    preset: str | None
    name: str
    fingerprint: str
    copied: bool
    source: Mapping[str, Any]
    refusal: str | None = None

    @property
    def source_readings(self) -> Readings:
        """The readings of all its files as they lay in the inbox."""
        return tuple((path, Reading(*reading)) for path, reading in self.source["readings"])
