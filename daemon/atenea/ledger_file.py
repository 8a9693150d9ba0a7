"""The ledger's file: opened, brought up to date, read and changed in transactions; and what is said when that fails."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from atenea.errors import AteneaError
from atenea.migrations import MIGRATIONS

LEDGER = "ledger.sqlite3"

_JOURNAL_BYTES = 16 * 2**20
"""What the write-ahead log shrinks to once nobody reads any more what kept it from starting over."""

_LOCK_SECONDS = 1.0
"""How long a change waits for another program's lock; the daemon does nothing else meanwhile."""

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class LockedError(AteneaError, sqlite3.OperationalError):
    """Another program keeps the ledger from being written; it can be tried again."""


class DamagedError(AteneaError, sqlite3.DatabaseError):
    """The file is no sound database any more; see `atenea.ledger_mending`."""


class LedgerFile:
    """An open database of the ledger's tables; safe to use from several threads.

    Args:
        only_read: for one who does not hold the state folder's lock.

    Attributes:
        damaged: whether something in it was found to be damaged since it was opened.
        on_damage: called, in any thread, when that is found.

    Raises:
        LockedError: another program holds the file's lock.
        DamagedError: it is no sound database.
        AteneaError: it cannot be opened for another reason, or is a newer version's; or an older one's, which is
            brought up to date unless it is only read.
    """

    def __init__(self, path: Path, *, only_read: bool = False) -> None:
        self._path = path
        self._lock = threading.RLock()
        self.damaged = False
        self.on_damage: Callable[[], object] = lambda: None
        try:
            with self._explained():
                self._db = connect(path, "ro" if only_read else "rwc")
                try:
                    self._check_version() if only_read else self._set_up()
                except BaseException:
                    self._db.close()
                    raise
        except AteneaError:
            raise
        except sqlite3.Error as error:
            raise AteneaError(f"{path}: the ledger cannot be opened: {error}") from None

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def close(self) -> None:
        """Close the database; the ledger cannot be used after."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            # Without FULL a commit reaches the disk with the next one that has it, in their order.
            self._db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk, for one, has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock, self._explained():
            return self._db.execute(query, values).fetchall()

    def _value(self, query: str, *values: Any) -> Any:
        rows = self._rows(query, *values)
        return rows[0][0] if rows else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What a person can do something about is raised as a sentence."""
        try:
            yield
        except sqlite3.Error as error:
            code = primary_code(error)
            if code in _LOCKED:
                raise LockedError(
                    f"{self._path}: another program has locked the ledger; it goes on when that lets go"
                ) from None
            if code in _DAMAGED:
                self.damaged = True
                self.on_damage()
                raise DamagedError(f"{self._path}: is damaged ({error}); the daemon mends it: atenea run") from None
            raise

    # Versions

    def _version(self) -> int:
        version = int(self._value("PRAGMA user_version"))
        if version > len(MIGRATIONS):
            raise AteneaError(newer_version(self._path, version))
        return version

    def _check_version(self) -> None:
        if self._version() < len(MIGRATIONS):
            raise AteneaError(f"{self._path}: is an older atenea's; start the daemon, which brings it up to date")

    def _migrate(self) -> None:
        version = self._version()
        if 0 < version < len(MIGRATIONS):
            self._back_up(version)
        for number in range(version, len(MIGRATIONS)):
            self._db.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            )

    def _back_up(self, version: int) -> None:
        copy = sqlite3.connect(self._path.with_name(f"{self._path.name}.version-{version}"))
        try:
            self._db.backup(copy)
        finally:
            copy.close()


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection without transactions of its own; `mode` is SQLite's: "ro" makes and changes no database."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=_LOCK_SECONDS)
    db.row_factory = sqlite3.Row
    return db


def newer_version(path: Path, version: int) -> str:
    """What is said of a ledger of a version that this one does not know."""
    return (
        f"{path}: was written by a newer atenea (version {version} of the ledger, this one knows {len(MIGRATIONS)});"
        " install that version again"
    )


def look_at(path: Path) -> sqlite3.Connection:
    """A connection that leaves no file behind; to a ledger that is open already, or that nobody opens meanwhile."""
    return connect(path, "ro" if Path(f"{path}-wal").exists() else "ro&immutable=1")


def damage_of(path: Path, *, has_jobs: bool) -> str | None:
    """What is wrong with a ledger that nobody has open, in SQLite's words; None when nothing is.

    Every page is read, and each index compared with its table: a job that an index lacks would never start. That takes
    about ten seconds for a million finished jobs.

    Args:
        path: the file, which is there.
        has_jobs: whether there are jobs, so that it cannot be one that nobody has used yet.

    Raises:
        LockedError: another program holds the file's lock.
        sqlite3.Error: it cannot be read at all.
    """
    try:
        with closing(look_at(path)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > len(MIGRATIONS):
                return None  # not ours to judge, and to be refused
            found = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
            is_set_up = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone()
            if found == "ok" and not is_set_up and (has_jobs or version):
                return "its tables are gone"
    except sqlite3.Error as error:
        if primary_code(error) in _LOCKED:
            raise LockedError(f"{path}: another program has locked the ledger; it goes on when that lets go") from None
        if primary_code(error) not in _DAMAGED:
            raise
        return str(error)
    return None if found == "ok" else found.replace("\n", " ")


def passes(error: sqlite3.Error) -> bool:
    """Whether the same change may succeed later: when the lock is gone, or when the disk has room."""
    return isinstance(error, LockedError) or primary_code(error) in _PASSING


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's code of an error, without what it says more; 0 for one of Python's own."""
    code = 0
    with suppress(AttributeError):
        code = error.sqlite_errorcode & 0xFF
    return code
