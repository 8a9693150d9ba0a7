"""What a job has on disk, for `atenea show`: its inputs, what its stages made so far, what is in the outbox."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from atenea.rows import StepRow

_MOST = 200
"""Files in a list; a job folder may hold very many."""


def job_files(folder: Path, steps: Sequence[StepRow], outputs: Iterable[str]) -> list[dict[str, Any]]:
    """Each file with `what` it is, `path` and `bytes`, which are None for what has been taken from the outbox.

    Args:
        folder: the job's.
        outputs: paths of what was published.
    """
    kept = [*_of("input", _inputs(folder)), *_of("artifact", _artifacts(folder, steps))]
    return [
        *(file for file in kept if file["bytes"] is not None),
        *_of("output", map(Path, outputs)),
    ]


def _of(what: str, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield {"what": what, "path": str(path), "bytes": _size(path)}


def _size(path: Path) -> int | None:
    """Bytes of a regular file; None if there is none."""
    try:
        facts = path.lstat()
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _inputs(folder: Path) -> Iterator[Path]:
    """The original as it came, and the copies of the files that it names."""
    found = (
        Path(root, name)
        for part in ("original", "input")
        for root, _, names in os.walk(folder / part)
        for name in sorted(names)
    )
    return islice(found, _MOST)


def _artifacts(folder: Path, steps: Sequence[StepRow]) -> Iterator[Path]:
    """What the finished steps made."""
    for step in steps:
        result = step.result or {}
        made = (result.get("artifact"), *result.get("attachments", {}).values(), result.get("timing"))
        yield from (folder / path for path in made if path)
