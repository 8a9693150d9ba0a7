"""A job's own lines of the log, in its folder: wherever the daemon logs to, `atenea show` has them.

They are kept as long as the folder. Of very many, the last ones stay.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the commands start faster without it
    from structlog.typing import EventDict, Processor, WrappedLogger

_NAME, _OLDER = "log.jsonl", "log.older.jsonl"
_JOB_ID = re.compile(r"[0-9a-z]{11}")

_MOST_BYTES = 256 * 1024
"""Of each of the two files, beside one more line."""

_TEXT = 4_096
_TAIL_BYTES = 128 * 1024


def keep_job_lines(jobs: Path) -> Processor:
    """A processor of structlog that writes lines with a job's id into its folder below `jobs` too."""

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        job_id = event.get("job")
        if isinstance(job_id, str) and _JOB_ID.fullmatch(job_id):
            try:
                _append(jobs / job_id, event)
            except OSError:  # the folder is gone, or the disk is full: the daemon's own log has the line
                pass
        return event

    return process


def last_lines(folder: Path, most: int) -> list[dict[str, Any]]:
    """The last lines about the job with this folder, the oldest first."""
    lines: list[dict[str, Any]] = []
    for name in (_NAME, _OLDER):
        if len(lines) < most:
            lines = _lines(folder / name)[-(most - len(lines)) :] + lines
    return lines


def _append(folder: Path, event: EventDict) -> None:
    line = json.dumps({name: _short(value) for name, value in event.items()}, ensure_ascii=False, default=str)
    path = folder / _NAME
    # No link is followed and no FIFO waited for: plugins can write into the folder.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    try:
        os.write(descriptor, line.encode(errors="backslashreplace") + b"\n")
        if os.fstat(descriptor).st_size > _MOST_BYTES:
            os.replace(path, folder / _OLDER)
    finally:
        os.close(descriptor)


def _short(value: Any) -> Any:
    return f"{value[:_TEXT]}..." if isinstance(value, str) and len(value) > _TEXT else value


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return []
        file.seek(max(0, facts.st_size - _TAIL_BYTES))
        found = map(_parsed, file.read(_TAIL_BYTES).splitlines())
        return [line for line in found if line is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None for half a line: of the beginning that was left out, or of a crash."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
