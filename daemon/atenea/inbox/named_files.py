"""The files that a job folder's job file names: a folder that fills slowly is not whole before they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from atenea.errors import MistakesError
from atenea.inbox.names import JOB_FILE
from atenea.inbox.nofollow import open_beneath
from atenea.jobfile import FILE_KEYS, parse_toml

_MOST = 1 << 20


def missing_files(inbox: Path, folder: str, assets: Path | None) -> list[str]:
    """The names in the job file of a folder of the inbox that are neither in the folder nor in `assets`.

    A job file that cannot be understood names none: why, its intake tells.
    """
    return [
        name
        for name in _names(inbox, folder)
        if not _exists(inbox, f"{folder}/{name}") and not (assets and _exists(assets, name))
    ]


def _names(inbox: Path, folder: str) -> Iterator[str]:
    try:
        with os.fdopen(open_beneath(inbox, f"{folder}/{JOB_FILE}"), "rb") as file:
            table = parse_toml(file.read(_MOST), JOB_FILE)
    except (OSError, MistakesError):
        return
    for key in FILE_KEYS:
        if isinstance(name := table.get(key), str):
            yield name


def _exists(root: Path, name: str) -> bool:
    try:
        os.close(open_beneath(root, name))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # a link, say: nothing that waiting would mend
    return True
