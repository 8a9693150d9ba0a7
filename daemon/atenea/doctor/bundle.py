"""Whether the models of Hallo2 are there and whole, as far as sizes tell: reading all of them takes long."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from atenea.errors import AteneaError
from atenea.finding import Finding, finding_of
from atenea.models import missing_files
from atenea.models.lockfile import LOCK_FILE, Lock, read_lock
from atenea.models.manifest import wanted_paths


def bundle_findings(folder: Path, *, vocals: bool = False) -> Iterator[Finding]:
    """Look at the models in `folder`; with `vocals` also at what takes music out of recordings."""
    download = "atenea models download" + (" --vocals" if vocals else "")
    if missing := missing_files(folder, vocals=vocals):
        rest = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield Finding("models", "problem", f"{folder} lacks {missing[0]}{rest}", download)
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
        text = f"all {len(paths)} files in {folder} have their sizes; their content is for atenea models verify"
        yield Finding("models", "ok", text)


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
