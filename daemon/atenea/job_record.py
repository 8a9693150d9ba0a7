"""How a job ended, in its own folder: what the ledger says of it, for the day on which the ledger is damaged.

Written before the job's files appear in the outbox, and once more when it is done, failed or cancelled, each time
before the ledger's commit. So a job with a record is never begun anew, whatever becomes of the ledger.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atenea import durable
from atenea.rows import JobRow

RECORD = "record.json"

Record = Mapping[str, Any]
"""`job`, a row of the ledger, and its `steps` and `attempts`, lists of rows."""

_MOST_BYTES = 64 * 2**20


def write_record(folder: Path, record: Record) -> None:
    """Write or replace the record of the job with this folder; durable when it returns.

    A folder that somebody has removed needs none: nothing could be begun anew.
    """
    with suppress(FileNotFoundError):
        durable.write_atomic(folder / RECORD, json.dumps(record).encode(), mode=0o640)


def drop_record(folder: Path) -> None:
    """The job goes on; durable when it returns."""
    with suppress(FileNotFoundError):
        durable.remove_file(folder / RECORD)
        durable.fsync_folder(folder)


def read_record(folder: Path) -> Record | None:
    """The record in a job's folder; None if there is none.

    Raises:
        ValueError: it is damaged, or another job's.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(folder / RECORD, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST_BYTES:
            raise ValueError("no record")
        content = file.read()
    try:
        record = json.loads(content)
        job = JobRow.of(record["job"])
        positions = [step["position"] for step in record["steps"]]
        is_whole = job.id == folder.name and positions == list(range(len(positions))) and job.position in positions
        is_ended = (job.is_final and job.finished is not None) or job.publishing is not None
        makes_sense = isinstance(record["attempts"], list) and all(map(is_step, record["steps"]))
        if not (is_whole and is_ended and makes_sense):
            raise ValueError("half a record")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("no record") from error
    found: Record = record
    return found


def is_step(row: Mapping[str, Any]) -> bool:
    """Whether a row of the table `steps` can be read as one."""
    try:
        result = None if row["result"] is None else json.loads(row["result"])
        return isinstance(json.loads(row["options"]), dict) and isinstance(result, dict | None)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
