"""Ways in which a ledger that nobody has open is damaged, as disks, crashes and people do it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

Damage = Callable[[Path], None]
_PAGE = 4096


def settle(path: Path) -> None:
    """Bring all that a killed daemon left in the write-ahead log into the file itself."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def pages(path: Path, name: str) -> list[int]:
    """The pages of a table or index, its root first."""
    settle(path)
    with closing(sqlite3.connect(path)) as db:
        return [page for (page,) in db.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (name,))]


def damage_page(path: Path, name: str, *, leaf: bool = False) -> None:
    """Overwrite the root of a table or index, or its last leaf, whoever has the ledger open."""
    write(path, (pages(path, name)[-1 if leaf else 0] - 1) * _PAGE, b"\xee" * _PAGE)


def zeroed_header(path: Path) -> None:
    settle(path)
    write(path, 0, bytes(100))


def truncated(path: Path) -> None:
    settle(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 100)


def flipped_in_the_middle(path: Path) -> None:
    settle(path)
    middle = path.stat().st_size // 2 // _PAGE * _PAGE
    found = path.read_bytes()[middle : middle + _PAGE]
    write(path, middle, bytes(byte ^ 0xA5 for byte in found))


def a_destroyed_index(path: Path) -> None:
    damage_page(path, "sqlite_autoindex_jobs_1")


@contextmanager
def left_behind(path: Path, index: str) -> Iterator[None]:
    """What is changed meanwhile the index does not follow, as one whose page is of an earlier day."""
    settle(path)
    hide, show = "DELETE FROM sqlite_master WHERE name = ?", "INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        facts = db.execute("SELECT * FROM sqlite_master WHERE name = ?", (index,)).fetchone()
        db.execute("PRAGMA writable_schema = ON")
        db.execute(hide, (index,))
    yield
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(show, facts)


_COPY = "CREATE TABLE copy AS SELECT * FROM jobs WHERE finished IS NULL"
_BACK = "INSERT INTO jobs SELECT * FROM copy"


def an_index_that_knows_too_much(path: Path) -> None:
    """Of a job that is not there."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"{_COPY} LIMIT 1")
        db.execute("UPDATE copy SET id = 'zzzzzzzzzzz'")
        db.execute(_BACK)
    with left_behind(path, "jobs_active"), closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM jobs WHERE id = 'zzzzzzzzzzz'")
        db.execute("DROP TABLE copy")


def an_index_that_knows_too_little(path: Path) -> None:
    """By it no job could start."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(_COPY)
        db.execute("DELETE FROM jobs WHERE finished IS NULL")
    with left_behind(path, "jobs_ready"), closing(sqlite3.connect(path)) as db, db:
        db.execute(_BACK)
        db.execute("DROP TABLE copy")


def destroyed_jobs(path: Path) -> None:
    damage_page(path, "jobs")


def destroyed_steps(path: Path) -> None:
    damage_page(path, "steps", leaf=True)


def no_database(path: Path) -> None:
    settle(path)
    path.write_text("somebody saved a text here\n" * 500)


def empty(path: Path) -> None:
    settle(path)
    path.write_bytes(b"")


def gone(path: Path) -> None:
    settle(path)
    path.unlink()


def without_its_log(path: Path) -> None:
    """What was committed since the last checkpoint is lost; what is left is a sound, but older ledger."""
    Path(f"{path}-wal").unlink(missing_ok=True)
    Path(f"{path}-shm").unlink(missing_ok=True)


def with_a_torn_log(path: Path) -> None:
    log = Path(f"{path}-wal")
    if log.exists() and (size := log.stat().st_size):
        with log.open("r+b") as file:
            file.truncate(size * 2 // 3)
    Path(f"{path}-shm").unlink(missing_ok=True)


SEEN: tuple[Damage, ...] = (
    *(zeroed_header, truncated, flipped_in_the_middle, a_destroyed_index, destroyed_jobs, destroyed_steps),
    *(an_index_that_knows_too_much, an_index_that_knows_too_little, no_database, empty, gone),
)
"""What a look at the file shows."""

UNSEEN: tuple[Damage, ...] = (without_its_log, with_a_torn_log)
"""What leaves a ledger that is sound, and does not know the last changes."""
