"""The ledger: whether this version can read it, whether it is sound, and what was lost of damaged ones."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from atenea.finding import Finding
from atenea.ledger_file import LEDGER, LockedError, damage_of, look_at, newer_version
from atenea.ledger_mending import damaged_ledgers
from atenea.migrations import MIGRATIONS


def ledger_findings(state: Path) -> Iterator[Finding]:
    """Look at the ledger of a state folder, and for the notes of those that were damaged."""
    path = state / LEDGER
    if os.path.isfile(path) and os.access(path, os.R_OK, effective_ids=True) and os.path.getsize(path):
        yield _found(path)
    for note in damaged_ledgers(state):
        text = f"a ledger was damaged, and a new one made of what was left; what was lost stands in {note}"
        yield Finding("damage", "note", text, f"read it; then remove it, and {note.with_suffix('')} if it is there")


def _found(path: Path) -> Finding:
    try:
        damage = damage_of(path, has_jobs=False)
        with closing(look_at(path)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            return Finding("ledger", "problem", newer_version(path, version), "install that version again")
    except LockedError as error:
        return Finding("ledger", "note", str(error), f"end the program that has {path} open")
    except sqlite3.Error as error:
        damage = str(error)
    if damage:
        cure = "start the daemon, which keeps the file and makes a new one of what is left"
        return Finding("ledger", "problem", f"{path} is damaged: {damage}", cure)
    return Finding("ledger", "ok", str(path))
