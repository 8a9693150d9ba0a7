"""Whether the models of Hallo2 are there, and as they were when they were last read whole, which takes long."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from atenea.access import WRITE, may
from atenea.errors import AteneaError
from atenea.finding import Finding, finding_of
from atenea.models import missing_files
from atenea.models.lockfile import LOCK_FILE, Lock, LockedFile, read_lock
from atenea.models.manifest import wanted_paths
from atenea.models.reading import days_of_reading


def bundle_findings(folder: Path, *, vocals: bool = False) -> Iterator[Finding]:
    """Look at the models in `folder`; with `vocals` also at what takes music out of recordings."""
    download = "atenea models download" + (" --vocals" if vocals else "")
    if missing := missing_files(folder, vocals=vocals):
        yield Finding("models", "problem", f"{folder} lacks {missing[0]}{_and_more(missing)}", download)
        return
    try:
        lock = read_lock(folder)
    except AteneaError as error:
        yield finding_of("models", "problem", str(error), download)
        return
    paths = wanted_paths(vocals=vocals)
    faults = [fault for path in paths if (fault := _fault(folder / path, path, lock))]
    yield from (Finding("models", "problem", text, cure or download) for text, cure in faults)
    if lock is None:
        text = f"{folder} has no {LOCK_FILE}, so nothing vouches for the models in it"
        yield Finding("models", "note", text, f"{download} compares them with the hub's, and keeps what is right")
    elif not faults:
        yield _content(folder, {path: lock.files[path] for path in paths})


def _content(folder: Path, files: Mapping[str, LockedFile]) -> Finding:
    """Whether the content of files that have their sizes was ever looked at."""
    days = days_of_reading(folder, files)
    if unread := [path for path, day in days.items() if day is None]:
        which = f"{folder / unread[0]}{_and_more(unread)} {'have' if len(unread) > 1 else 'has'}"
        text = f"{which} changed since the last reading, or never been read whole"
        who = "" if may(folder, WRITE) else f", as a user who may write {folder}"
        return Finding("models", "note", text, f"atenea models verify{who}")
    read = min(day for day in days.values() if day)
    return Finding("models", "ok", f"all {len(files)} files in {folder} are as they were when verified on {read}")


def _and_more(paths: Sequence[str]) -> str:
    return f" and {len(paths) - 1} more" if len(paths) > 1 else ""


def _fault(file: Path, path: str, lock: Lock | None) -> tuple[str, str] | None:
    """What is wrong with a file that is there, and what to do unless it is to be fetched again."""
    if not os.access(file, os.R_OK, effective_ids=True):
        return f"{file} may not be read by this user", f"chmod a+r {file}"
    if lock is None:
        return None
    if path not in lock.files:
        return f"{file} was not fetched by atenea: it is not in {LOCK_FILE}", ""
    size = file.stat().st_size
    if size != lock.files[path].size:
        return f"{file} has {size} bytes instead of {lock.files[path].size}", ""
    return None
