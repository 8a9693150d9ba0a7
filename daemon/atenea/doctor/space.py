"""Whether the disks have room for jobs: for a short one, and for the largest that the limits allow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from atenea.config import Config, Limits
from atenea.doctor.folders import existing
from atenea.finding import Finding

_SECOND = {"state": 300_000, "outbox": 100_000}
"""Bytes that a second of speech takes: in the state folder twice the video of 512 x 512 (100 kB measured with
`preview`), the speech and the 16 kHz WAV; in the outbox the video."""

_CHARACTERS_PER_SECOND = 15
"""Slow speech: espeak speaks 17 with its defaults."""

SHORT_SECONDS = 600
"""A job of so many seconds must fit."""


def space_findings(config: Config) -> Iterator[Finding]:
    """Look at the file systems of the state folder and of the outbox, which may be one."""
    paths = {"state": config.paths.state, "outbox": config.paths.outbox}
    places: dict[int, list[str]] = {}
    for name, path in paths.items():
        places.setdefault(os.stat(existing(path)).st_dev, []).append(name)
    for names in places.values():
        free = shutil.disk_usage(existing(paths[names[0]])).free
        yield space_finding(names, [paths[name] for name in names], free, config.limits)


def space_finding(names: list[str], paths: list[Path], free: int, limits: Limits) -> Finding:
    """Whether `free` bytes are enough for these folders, which share a file system."""
    place = f"{decimal(free)} are free for {' and '.join(map(str, paths))}"
    short, largest = needed(names, SHORT_SECONDS), largest_job(names, limits)
    if free < short:
        text = f"{place}, and a job of {SHORT_SECONDS // 60} minutes takes about {decimal(short)}"
        return Finding("space", "problem", text, _cure(names))
    if free < largest:
        text = f"{place}, and the largest job that [limits] allows takes about {decimal(largest)}"
        return Finding("space", "note", text, f"{_cure(names)}; or lower limits.text_characters and limits.file_bytes")
    return Finding("space", "ok", place)


def needed(names: list[str], seconds: float) -> int:
    """Bytes that a job of so many seconds takes in these folders."""
    return round(seconds * sum(_SECOND[name] for name in names))


def largest_job(names: list[str], limits: Limits) -> int:
    """Bytes of the longest text, or of the largest sound and picture, copies of which lie in the state folder."""
    text = needed(names, limits.text_characters / _CHARACTERS_PER_SECOND)
    return max(text, 2 * limits.file_bytes if "state" in names else 0)


def _cure(names: list[str]) -> str:
    return f"free some space, or set paths.{names[0]} to a folder on a larger disk"
