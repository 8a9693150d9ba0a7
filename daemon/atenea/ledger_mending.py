"""Opens the daemon's ledger; a damaged one is put aside, never deleted, and a new one made of what is left.

What can still be read is copied; what is lost of a job that ended, or was about to appear in the outbox, stands in the
record in its folder. Any other job whose folder is there begins anew. The new ledger is made beside the old one:

1. `ledger.sqlite3.new` is filled and closed; 2. it is renamed to `ledger.sqlite3.mended-TIME`, and from here on it
counts; 3. the damaged files get the ending `.damaged-TIME`; 4. the new ledger gets its name.

A crash before 2 leaves all as it was, one after it is finished by the next start.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import structlog

from atenea import durable
from atenea.errors import AteneaError
from atenea.job_log import last_lines
from atenea.job_record import read_record
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER, damage_of
from atenea.ledger_salvage import salvage
from atenea.naming import printable
from atenea.retention import drop_work
from atenea.rows import JobRow

log = structlog.get_logger()

DAMAGED = ".damaged-"
NOTE = ".txt"
_NEW, _MENDED = ".new", ".mended-"
_DOUBTFUL = "doubtful"
"""In the state folder, for folders of jobs."""

_DAMAGED_RECORD = (
    *(OSError, ValueError, TypeError, OverflowError),
    *(sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError),
)
"""What reading a damaged record raises, or entering it: a value of another type, or beyond what SQLite holds."""

_MOST_NAMED = 100
"""Jobs in one list of a note."""
_FILES_NAMED = 3
"""Of each job."""
_LOG_LINES = 1000


@dataclass
class Losses:
    """What became of jobs that the ledger knew nothing of any more, or too little.

    Attributes:
        restored: how they ended, or were about to appear in the outbox, was in their folders.
        begun_anew: unfinished ones of which only the folders are left.
        in_doubt: whether they are done is not known, so their folders were put aside; not to be done twice.
        in_part: ended, and some of their steps are lost.
        forgotten: nothing but their ids is left.
    """

    restored: list[str] = field(default_factory=list)
    begun_anew: list[str] = field(default_factory=list)
    in_doubt: list[str] = field(default_factory=list)
    in_part: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)


def open_ledger(state: Path) -> Ledger:
    """The sound ledger of a state folder whose lock is held; with what the records of jobs know better than it.

    Raises:
        LockedError: another program has locked it; try again.
        AteneaError: it is a newer version's, or cannot be opened or mended.
    """
    path, jobs = state / LEDGER, state / "jobs"
    try:
        _finish(path)
        if damage := _damage(path, jobs):
            _mend(path, jobs, damage)
        ledger = Ledger(path)
        try:
            _follow_records(ledger, jobs)
        except BaseException:
            ledger.close()
            raise
    except AteneaError:
        raise
    except OSError as error:
        raise AteneaError(f"{error.filename or path}: the ledger cannot be opened: {error.strerror}") from None
    except sqlite3.Error as error:
        raise AteneaError(f"{path}: the ledger cannot be opened: {error}") from None
    return ledger


def damaged_ledgers(state: Path) -> list[Path]:
    """The damaged ledgers that were put aside, and of each its note beside it, the oldest first."""
    return sorted(path for path in state.glob(f"{LEDGER}{DAMAGED}*{NOTE}") if path.is_file())


def _damage(path: Path, jobs: Path) -> str | None:
    """What is wrong with the ledger, if it is used at all."""
    has_jobs = next(_folders(jobs), None) is not None
    if path.exists() and path.stat().st_size:
        return damage_of(path, has_jobs=has_jobs)
    if not has_jobs:
        return None
    return "it is empty" if path.exists() else "it is gone"


# A new ledger


def _mend(path: Path, jobs: Path, damage: str) -> None:
    log.error("the ledger is damaged; it is mended, which may take minutes", file=str(path), damage=damage)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    new = path.with_name(f"{path.name}{_NEW}")
    for part in ("", "-wal", "-shm"):
        durable.remove_file(f"{new}{part}")
    Ledger(new).close()
    lost, holed = salvage(path, new) if path.exists() else (set[str](), set[str]())
    with closing(Ledger(new)) as ledger:
        losses = _follow_records(ledger, jobs)
        unknown = [folder for folder in _folders(jobs) if not ledger.knows(folder.name)]
        losses.begun_anew = [_title(folder) for folder in unknown]
        gone = lost - {folder.name for folder in unknown}
        losses.in_part = sorted(holed)
        losses.forgotten = sorted(job_id for job_id in gone if not ledger.knows(job_id))
    durable.fsync_file(new)
    kept = path.with_name(f"{path.name}{DAMAGED}{stamp}")
    note = kept.with_name(f"{kept.name}{NOTE}")
    durable.write_atomic(note, "\n".join([*_note(kept, damage, losses), ""]).encode(), mode=0o640)
    durable.replace(new, path.with_name(f"{path.name}{_MENDED}{stamp}"))
    _finish(path)
    log.warning("the ledger is mended", **{what: len(found) for what, found in vars(losses).items()}, note=str(note))


def _finish(path: Path) -> None:
    """Put a mended ledger in the place of the damaged one, if one is there."""
    for mended in sorted(path.parent.glob(f"{path.name}{_MENDED}*")):
        stamp = mended.name.rpartition(_MENDED)[2]
        for part in ("-wal", ""):  # in this order: the log must not be left beside another database
            if os.path.lexists(f"{path}{part}"):
                os.rename(f"{path}{part}", f"{path}{DAMAGED}{stamp}{part}")
        durable.remove_file(f"{path}-shm")
        durable.fsync_folder(path.parent)
        durable.replace(mended, path)


def _note(kept: Path, damage: str, losses: Losses) -> Iterator[str]:
    yield f"The ledger was damaged ({damage}); a new one was made of what was left."
    yield f"The damaged one is {kept.name}, if it was there; when you do not need it, remove it and this note."
    yield from _listed("Ended, or about to appear in the outbox, as their folders say", losses.restored)
    yield from _listed("Begun anew, because what was done of them is lost", losses.begun_anew)
    doubtful = f"May be done, so their folders wait in {_DOUBTFUL}/; submit them again if no video is there"
    yield from _listed(doubtful, losses.in_doubt)
    yield from _listed("Ended, and some of their stages are lost", losses.in_part)
    yield from _listed("Lost, and their folders were gone already", losses.forgotten)
    yield "Nothing tells of lost jobs that had ended and whose folders were gone, nor whether the queue was paused."


def _listed(what: str, jobs: list[str]) -> Iterator[str]:
    if jobs:
        more = f" and {len(jobs) - _MOST_NAMED:,} more" if len(jobs) > _MOST_NAMED else ""
        yield f"{what}: {', '.join(jobs[:_MOST_NAMED])}{more}."


# Folders


def _follow_records(ledger: Ledger, jobs: Path) -> Losses:
    """Enter what the folders of jobs say that the ledger does not know, or not any more."""
    losses = Losses()
    active = {job.id: job for job in ledger.active()}
    for folder in _folders(jobs):
        job = active.get(folder.name)
        if job is None and ledger.knows(folder.name):
            continue  # it has ended, and is not begun anew
        try:
            if _restore(ledger, folder, job):
                losses.restored.append(_title(folder))
                continue
            is_doubtful = _says_done(folder)
        except _DAMAGED_RECORD:
            is_doubtful = True
        if job is None and is_doubtful:
            losses.in_doubt.append(_title(folder))
            _put_aside(folder, jobs.with_name(_DOUBTFUL))
        elif job is None:
            drop_work(folder)  # what is taken for a new job must not find what was made for an old one
    return losses


def _restore(ledger: Ledger, folder: Path, job: JobRow | None) -> bool:
    """Restore a job from its record, if there is one and the ledger does not say as much; whether it was done."""
    record = read_record(folder)
    if record is None or (job and job.publishing is not None and record["job"]["finished"] is None):
        return False
    ledger.restore(record)
    log.warning("the ledger did not know how far a job was; its folder did", job=folder.name)
    return True


def _folders(jobs: Path) -> Iterator[Path]:
    """The folders of jobs, oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(jobs) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    yield from (jobs / name for name in names)


def _says_done(folder: Path) -> bool:
    """Whether a job is done by its log: it may be from before there were records."""
    lines = last_lines(folder, _LOG_LINES)
    return any((line.get("event"), line.get("state")) == ("job finished", "done") for line in lines)


def _put_aside(folder: Path, doubtful: Path) -> None:
    durable.make_folders(doubtful)
    names = itertools.chain([folder.name], (f"{folder.name}-{number}" for number in itertools.count(2)))
    kept = next(path for name in names if not os.path.lexists(path := doubtful / name))
    os.rename(folder, kept)
    durable.fsync_folder(doubtful)
    durable.fsync_folder(folder.parent)
    log.error("the ledger lost a job that may be done; it is not begun anew", folder=str(kept))


def _title(folder: Path) -> str:
    """A job's id and its files, as far as they fit."""
    names = [name for _, _, files in os.walk(folder / "original") for name in sorted(files)][:_FILES_NAMED]
    return printable(f"{folder.name} ({', '.join(names)})")
