"""Reads what can still be read of a damaged ledger, row by row, past the pages that cannot."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from atenea.job import STAGES
from atenea.job_record import is_step
from atenea.ledger import insertion
from atenea.ledger_file import connect, primary_code
from atenea.rows import FINAL_STATES, JobRow

_JOB_ID = re.compile(r"[0-9a-z]{11}")
_STATES = FINAL_STATES | {"queued", *STAGES}
_FARTHEST = 1 << 40
"""How many rows after one that cannot be read the next is looked for."""

_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_FULL})

_HALF_JOBS = """
    SELECT id FROM jobs WHERE NOT EXISTS (SELECT 1 FROM steps WHERE job_id = jobs.id) OR finished IS NULL AND (
        (SELECT count(*) FROM steps WHERE job_id = jobs.id)
            <> (SELECT max(position) + 1 FROM steps WHERE job_id = jobs.id)
        OR NOT EXISTS (SELECT 1 FROM steps WHERE job_id = jobs.id AND position = jobs.position)
        OR error IS NULL AND EXISTS (
            SELECT 1 FROM steps WHERE job_id = jobs.id AND position < jobs.position AND result IS NULL)
        OR position > 0 AND NOT EXISTS (SELECT 1 FROM steps WHERE job_id = jobs.id AND stage = 'publish')
    )
"""
"""Jobs that could not go on, or be shown, with the steps that are left of them."""

_HOLED_JOBS = """
    SELECT id FROM jobs WHERE finished IS NOT NULL AND (
        (SELECT count(*) FROM steps WHERE job_id = jobs.id)
            <> (SELECT max(position) + 1 FROM steps WHERE job_id = jobs.id)
        OR state <> 'cancelled' AND NOT EXISTS (SELECT 1 FROM steps WHERE job_id = jobs.id AND stage = 'publish')
    )
"""
"""Jobs that ended, and of which some steps are lost."""


def salvage(damaged: Path, ledger: Path) -> tuple[set[str], set[str]]:
    """Copy rows of a damaged ledger that nobody has open into a new one.

    Rows that make no sense are left out, and jobs that are not whole; nothing is changed in the damaged file.

    Returns:
        The ids of jobs that were lost, and of those that ended and lost steps.

    Raises:
        sqlite3.Error: the machine cannot do it now: a lock, a full disk.
    """
    with closing(connect(ledger, "rw")) as target:
        target.execute("PRAGMA foreign_keys = OFF")
        target.execute("PRAGMA synchronous = OFF")
        target.execute("BEGIN")
        with closing(connect(damaged, "ro")) as source:
            for table, makes_sense in _TABLES.items():
                _copy(source, target, table, makes_sense)
        lost = _drop_halves(target)
        holed = {row["id"] for row in target.execute(_HOLED_JOBS)}
        target.execute("COMMIT")
    return lost, holed


def _copy(
    source: sqlite3.Connection, target: sqlite3.Connection, table: str, makes_sense: Callable[[Mapping[str, Any]], bool]
) -> None:
    statement, columns = "", list[str]()
    for row in _readable(source, table):
        if not statement:
            statement, columns = insertion(target, table, row.keys())
        if makes_sense(dict(row)):
            with suppress(sqlite3.IntegrityError):  # a value of another type, or one that must be there once only
                target.execute(statement, [row[name] for name in columns])


def _readable(db: sqlite3.Connection, table: str) -> Iterator[sqlite3.Row]:
    after: int | None = 0
    query = f"SELECT rowid AS row_number, * FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"  # noqa: S608
    while after is not None:
        try:
            for row in db.execute(query, (after,)):
                if row["row_number"] > after:  # a page may be linked twice
                    after = row["row_number"]
                    yield row
            return
        except sqlite3.Error as error:
            _check_damage(error)
            after = _past_damage(db, table, after)


def _past_damage(db: sqlite3.Connection, table: str, after: int) -> int | None:
    """The number of the last row that cannot be read, after one that could; None if nothing can any more."""
    query = f"SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT 1"  # noqa: S608

    def reads(number: int) -> bool:
        try:
            db.execute(query, (number,)).fetchall()
        except sqlite3.Error as error:
            _check_damage(error)
            return False
        return True

    steps = 1
    while not reads(after + steps):
        steps *= 2
        if steps > _FARTHEST:
            return None
    fails, good = after + steps // 2, after + steps
    while good - fails > 1:
        middle = (fails + good) // 2
        fails, good = (fails, middle) if reads(middle) else (middle, good)
    return good


def _check_damage(error: sqlite3.Error) -> None:
    """Raise what is wrong with the machine, and not with the file."""
    if primary_code(error) in _PASSING:
        raise error


def _drop_halves(db: sqlite3.Connection) -> set[str]:
    lost = {row["id"] for row in db.execute(_HALF_JOBS)}
    db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in lost])
    for table in ("steps", "attempts"):
        lost |= {row[0] for row in db.execute(f"SELECT job_id FROM {table} WHERE job_id NOT IN (SELECT id FROM jobs)")}  # noqa: S608
        db.execute(f"DELETE FROM {table} WHERE job_id NOT IN (SELECT id FROM jobs)")  # noqa: S608
    # Which step is next decides, not what an index once said that it needs.
    db.execute(
        "UPDATE jobs SET needs = (SELECT needs FROM steps WHERE job_id = jobs.id AND position = jobs.position)"
        " WHERE finished IS NULL"
    )
    return lost


def _is_setting(row: Mapping[str, Any]) -> bool:
    if row["name"] == "paused":
        return row["value"] in {"yes", "no"}
    try:
        return row["name"] == "clock doubted until" and math.isfinite(float(row["value"]))
    except (ValueError, TypeError):
        return False


def _is_job(row: Mapping[str, Any]) -> bool:
    try:
        job = JobRow.of(row)
        is_ended = job.finished is not None
        return bool(_JOB_ID.fullmatch(job.id)) and job.state in _STATES and job.is_final == is_ended
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


_TABLES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "settings": _is_setting,
    "jobs": _is_job,
    "steps": is_step,
    "attempts": lambda row: True,
}
"""How a row of each is told from one that was overwritten."""
