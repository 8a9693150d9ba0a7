"""What no crash may break: every job is done exactly once, and the folders are as the ledger says."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atenea import durable
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.rows import JobRow

_KEPT = {"done": {"job.json", "log.jsonl", "original", "record.json"}}
_KEPT_OF_OTHERS = {*_KEPT["done"], "input", "work", "publish"}


@dataclass(frozen=True)
class Drop:
    """A job as it was dropped.

    Attributes:
        files: its files, relative to the inbox.
        states: how it may end.
        attachments: what it leaves in the outbox beside video and report.
    """

    files: Mapping[str, bytes]
    states: frozenset[str] = frozenset({"done"})
    attachments: frozenset[str] = frozenset()


def assert_kept(folder: Path, drops: Mapping[str, Drop], *, inbox: Path | None = None) -> None:
    """Compare the ledger, the inbox, the outbox and the state folder of an instance that has come to rest.

    Args:
        folder: with `outbox`, `state` and, unless it is elsewhere, `inbox`.
        drops: every job that was dropped, by name.
        inbox: where it is, if not in the folder.
    """
    state, outbox = folder / "state", folder / "outbox"
    _check_database(state / LEDGER)
    ledger = Ledger(state / LEDGER, only_read=True)
    with closing(ledger):
        jobs = ledger.finished(-1)
        assert ledger.active() == [], "a job is not finished"
        assert ledger.unfinished_copies() == [], "a source is not removed"
        assert Counter(job.name for job in jobs) == Counter(drops.keys()), "a job is lost or doubled"
        for job in jobs:
            _check_job(ledger, job, drops[job.name], state / "jobs" / job.id)
        _check_outbox(outbox, jobs, drops)
        assert _files(inbox or folder / "inbox") == {}, "something is left in the inbox"
        assert sorted(os.listdir(state / "jobs")) == sorted(job.id for job in jobs)


def _check_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def _check_job(ledger: Ledger, job: JobRow, drop: Drop, folder: Path) -> None:
    assert job.state in drop.states, (job.name, job.state, job.error)
    attempts = Counter((a.stage, a.plugin) for a in ledger.attempts(job.id) if a.outcome == "done")
    assert all(attempt.ended is not None for attempt in ledger.attempts(job.id))
    steps = ledger.steps(job.id)
    if job.state == "done":
        assert all(step.result is not None for step in steps if step.stage != "publish")
        # An upload may go on, and be read again, before anything is made of it.
        assert {key: n for key, n in attempts.items() if n > 1 and key[0] not in {"intake", "tts"}} == {}
        assert {(step.stage, step.plugin) for step in steps} == set(attempts)
    originals = {str(path.relative_to(folder / "original")): path.read_bytes() for path in _paths(folder / "original")}
    assert originals == drop.files
    kept = set(os.listdir(folder))
    assert kept <= _KEPT.get(job.state, _KEPT_OF_OTHERS), (job.name, job.state, kept)
    if job.state != "cancelled":
        assert [path for path in folder.rglob(".*") if not path.is_relative_to(folder / "original")] == []


def _check_outbox(outbox: Path, jobs: list[JobRow], drops: Mapping[str, Drop]) -> None:
    published = {}
    for job in jobs:
        suffixes = {"done": {".mp4", ".json"} | drops[job.name].attachments, "failed": {".error.txt"}}
        assert set(job.outputs) == suffixes.get(job.state, set()), (job.name, job.outputs)
        files = {f"{job.stem}{suffix}": sha256 for suffix, sha256 in job.outputs.items()}
        assert not published.keys() & files.keys(), "two jobs have the same output"
        published |= files
        if job.state == "done":
            _check_report(json.loads((outbox / f"{job.stem}.json").read_bytes()), job)
    found = {path.name: durable.sha256_file(path) for path in outbox.iterdir()}
    assert found == published, "an output is missing, torn, doubled or left over"


def _check_report(report: Mapping[str, Any], job: JobRow) -> None:
    assert (report["id"], report["name"]) == (job.id, job.name)
    assert report["video"]["sha256"] == job.outputs[".mp4"]


def _paths(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _files(folder: Path) -> dict[str, bytes]:
    """All that is in the inbox, but for the folders of presets."""
    return {str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_file() or path.name[0] == "."}
