"""The only memory: jobs, their steps and every attempt at one, in SQLite.

One process writes at a time (the daemon, or a command that holds its lock). Each public method that changes something
is one transaction, durable when it returns; but `begin`, which a power cut may undo: then the step had not begun.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from atenea.errors import UsageError
from atenea.inbox.taken import TakenRow
from atenea.job_record import Record, drop_record, write_record
from atenea.ledger_file import LedgerFile
from atenea.naming import safe_stem
from atenea.rows import INTAKE, PUBLISH, AttemptRow, JobRow, RenderRow, Step, StepRow, join_needs, split_needs

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"

_LATE_SECONDS = 600.0
"""How long the rest of a file may come after what was there was refused."""

_MOST_LATE = 200
"""Refused jobs that are looked at again."""

_ACTIVE = "finished IS NULL"
_KEPT = "INDEXED BY jobs_kept WHERE cleaned = 0 AND finished IS NOT NULL"
"""SQLite would take the index of all finished jobs, which may be very many more."""

_DISTINCT_NEEDS = """
    WITH RECURSIVE found (needs) AS (
        SELECT min(needs) FROM jobs WHERE needs IS NOT NULL
        UNION ALL
        SELECT (SELECT min(needs) FROM jobs WHERE needs > found.needs) FROM found WHERE needs IS NOT NULL
    )
    SELECT needs FROM found WHERE needs IS NOT NULL
"""
"""Jumps from one to the next in the index; DISTINCT would read all of it."""

_HAS_SAMPLES = """
    iif(json_valid(audio.result), json_type(audio.result, '$.samples'), '') = 'integer'
    AND iif(json_valid(audio.result), audio.result ->> 'samples', 0) BETWEEN 1 AND 1000000000000
"""
"""What a worker says is no more than JSON as Python reads it."""

NEXT_RENDERS = f"""
    SELECT job.id AS job_id, render.plugin, render.options AS given, NULL AS options, NULL AS seconds,
        audio.result ->> 'samples' AS samples
    FROM ({{jobs}}) AS job
    CROSS JOIN steps AS render ON render.job_id = job.id AND render.position = job.position
    CROSS JOIN steps AS audio ON audio.job_id = job.id AND audio.position < job.position
    WHERE render.stage = 'render' AND audio.stage = 'audio' AND {_HAS_SAMPLES}
"""  # noqa: S608 - our own text, as below
"""CROSS JOIN keeps this order, in which steps are found by their jobs."""

PAST_RENDERS = f"""
    SELECT jobs.id AS job_id, render.plugin, render.options AS given, render.result -> 'options' AS options,
        render.seconds, audio.result ->> 'samples' AS samples
    FROM jobs
    CROSS JOIN steps AS render ON render.job_id = jobs.id
    CROSS JOIN steps AS audio ON audio.job_id = jobs.id AND audio.position < render.position
    WHERE jobs.finished >= ifnull(
            (SELECT finished FROM jobs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT 1 OFFSET ?), 0)
        AND render.stage = 'render' AND render.plugin = ? AND render.seconds > 0
        AND iif(json_valid(render.result), json_type(render.result, '$.options'), '') = 'object'
        AND audio.stage = 'audio' AND {_HAS_SAMPLES}
        AND NOT EXISTS (SELECT 1 FROM attempts
            WHERE job_id = jobs.id AND stage = 'render' AND outcome IS NOT 'done')
    ORDER BY jobs.finished DESC LIMIT ?
"""  # noqa: S608
"""A render of several attempts says nothing of its pace: the last one goes on from where the others came to."""


class Ledger(LedgerFile):
    """Open ledger of a state folder; see `LedgerFile`.

    How a job ends is written into its folder too, before it is committed (see `atenea.job_record`).
    """

    def _set_up(self) -> None:
        super()._set_up()
        self._records = self._path.parent / "jobs"
        self._last_id = self._value("SELECT max(id) FROM jobs") or ""

    # Taking jobs (see atenea.inbox.taking)

    def new_ids(self, count: int) -> list[str]:
        """Ids that sort by time, whatever the clock does."""
        with self._lock:
            moment = time.time_ns() // 1000
            ids = []
            for _ in range(count):
                self._last_id = max(_base32(moment), _successor(self._last_id))
                ids.append(self._last_id)
            return ids

    def add_taken(self, rows: Sequence[TakenRow]) -> None:
        """Enter jobs that were taken from the inbox."""
        with self._transaction() as db:
            for row in rows:
                self._add(db, row)
                self._last_id = max(self._last_id, row.job_id)

    def _add(self, db: sqlite3.Connection, row: TakenRow) -> None:
        db.execute(
            "INSERT INTO jobs (id, name, state, preset, needs, created, relative, source, fingerprint, refusal,"
            " copied) VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.job_id,
                safe_stem(row.name),
                row.preset,
                join_needs(INTAKE.needs),
                time.time(),
                json.dumps(row.relative),
                json.dumps(row.source),
                row.fingerprint,
                row.refusal,
                row.copied,
            ),
        )
        _insert_steps(db, row.job_id, 0, [INTAKE])

    def knows(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return self._value("SELECT 1 FROM jobs WHERE id = ?", job_id) is not None

    def unfinished_copies(self) -> list[TakenRow]:
        """Jobs taken by copy whose originals may still lie in the inbox."""
        return [
            TakenRow(
                job_id=row["id"],
                relative=json.loads(row["relative"]),
                preset=row["preset"],
                name=row["name"],
                fingerprint=row["fingerprint"],
                copied=True,
                source=json.loads(row["source"]),
            )
            for row in self._rows("SELECT * FROM jobs WHERE copied = 1")
        ]

    def copy_finished(self, job_id: str) -> None:
        """The inbox no longer holds the original of this job."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET copied = 0 WHERE id = ?", (job_id,))

    def copy_begun(self, job_id: str) -> None:
        """More of this job is about to be copied from the inbox."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET copied = 1 WHERE id = ?", (job_id,))

    def is_past_changes(self, job_id: str) -> bool:
        """Whether the job would not start over any more if its original changed: its first stage is done, or it ended
        long ago.
        """
        past = "SELECT position > 1 OR ifnull(finished < ?, 0) FROM jobs WHERE id = ?"
        return bool(self._value(past, time.time() - _LATE_SECONDS, job_id))

    def refused_lately(self) -> list[JobRow]:
        """Jobs that failed before their first stage, not long ago; of very many, the last ones."""
        unread = "EXISTS (SELECT 1 FROM steps WHERE job_id = jobs.id AND position = 0 AND result IS NULL)"
        where = f"{_KEPT} AND finished >= ? AND state = 'failed' AND {unread} ORDER BY finished DESC LIMIT ?"
        return self._jobs(where, time.time() - _LATE_SECONDS, _MOST_LATE)

    # Reading

    def job(self, job_id: str) -> JobRow | None:
        """The job with this id."""
        return next(iter(self._jobs("WHERE id = ?", job_id)), None)

    def find(self, reference: str) -> JobRow | None:
        """The job with this id, or else the newest with this name."""
        name = safe_stem(reference)
        return self.job(name) or next(iter(self._jobs("WHERE name = ? ORDER BY id DESC LIMIT 1", name)), None)

    def taken_from(self, device: int, inode: int) -> JobRow | None:
        """The newest job that was this file in the inbox."""
        where = "WHERE source ->> 'device' = ? AND source ->> 'inode' = ? ORDER BY id DESC LIMIT 1"
        return next(iter(self._jobs(where, _number(device), _number(inode))), None)

    def active(self, limit: int = -1) -> list[JobRow]:
        """Jobs that are not finished, in the order in which they are served; all of them if the limit is -1."""
        return self._jobs(f"WHERE {_ACTIVE} ORDER BY priority DESC, id LIMIT ?", limit)

    def finished(self, limit: int) -> list[JobRow]:
        """The jobs that finished last, the latest first."""
        return self._jobs("WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT ?", limit)

    def ready(self, needs: str, now: float, limit: int) -> list[JobRow]:
        """Jobs whose next step needs just this and may start, in the order in which they are served."""
        where = "WHERE needs = ? AND not_before <= ? ORDER BY priority DESC, id LIMIT ?"
        return self._jobs(where, needs, now, limit)

    def wanted_needs(self) -> list[str]:
        """The different needs of all jobs' next steps."""
        return [row["needs"] for row in self._rows(_DISTINCT_NEEDS)]

    def next_due(self, now: float) -> float | None:
        """When the first of the jobs that wait for a time may go on."""
        due = self._value("SELECT min(not_before) FROM jobs WHERE not_before > 0 AND not_before > ?", now)
        return None if due is None else float(due)

    def steps(self, job_id: str) -> list[StepRow]:
        """A job's steps, in order."""
        rows = self._rows("SELECT * FROM steps WHERE job_id = ? ORDER BY position", job_id)
        return [
            StepRow(
                stage=row["stage"],
                plugin=row["plugin"],
                needs=split_needs(row["needs"]),
                options=json.loads(row["options"]),
                position=row["position"],
                failures=row["failures"],
                seconds=row["seconds"],
                result=json.loads(row["result"]) if row["result"] is not None else None,
            )
            for row in rows
        ]

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """Every attempt at a step of a job, in order."""
        rows = self._rows("SELECT * FROM attempts WHERE job_id = ? ORDER BY id", job_id)
        return [AttemptRow(**{name: row[name] for name in AttemptRow.__dataclass_fields__}) for row in rows]

    def next_renders(self, limit: int) -> list[RenderRow]:
        """The renders that are the next step, or run, of the unfinished jobs that are served first."""
        jobs = f"SELECT id, position FROM jobs WHERE {_ACTIVE} ORDER BY priority DESC, id LIMIT ?"  # noqa: S608
        return [RenderRow.of(dict(row)) for row in self._rows(NEXT_RENDERS.format(jobs=jobs), limit)]

    def next_render(self, job_id: str) -> RenderRow | None:
        """The job's render, if that is its next step or runs."""
        jobs = f"SELECT id, position FROM jobs WHERE id = ? AND {_ACTIVE}"  # noqa: S608
        rows = self._rows(NEXT_RENDERS.format(jobs=jobs), job_id)
        return RenderRow.of(dict(rows[0])) if rows else None

    def past_renders(self, plugin: str, *, limit: int, within: int) -> list[RenderRow]:
        """The last renders of a plugin that were done at the first attempt, the latest first.

        They are looked for among the `within` jobs that finished last: there may be very many.
        """
        return [RenderRow.of(dict(row)) for row in self._rows(PAST_RENDERS, within - 1, plugin, limit)]

    def has_stem(self, stem: str) -> bool:
        """Whether the files of this stem in the outbox are a job's."""
        return self._value("SELECT 1 FROM jobs WHERE stem = ?", stem) is not None

    def counts(self) -> dict[str, int]:
        """How many unfinished jobs are in each state."""
        rows = self._rows(f"SELECT state, count(*) AS number FROM jobs WHERE {_ACTIVE} GROUP BY state")  # noqa: S608
        return {row["state"]: row["number"] for row in rows}

    def failed_since(self, moment: float) -> int:
        """How many jobs failed since then."""
        return int(self._value("SELECT count(*) FROM jobs WHERE state = 'failed' AND finished >= ?", moment) or 0)

    @property
    def paused(self) -> bool:
        """Whether no new step is to start."""
        return bool(self._value("SELECT value FROM settings WHERE name = 'paused'") == "yes")

    # What happens to a job

    def begin(self, job: JobRow, step: StepRow) -> int:
        """A step starts; the id of the attempt. One that is still open came to nothing: the daemon could not go on."""
        now = time.time()
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM attempts WHERE job_id = ? AND ended IS NULL", (job.id,))
            db.execute(
                "UPDATE jobs SET state = ?, started = coalesce(started, ?) WHERE id = ?", (step.state, now, job.id)
            )
            cursor = db.execute(
                "INSERT INTO attempts (job_id, stage, plugin, started) VALUES (?, ?, ?, ?)",
                (job.id, step.stage, step.plugin, now),
            )
            return int(cursor.lastrowid or 0)

    def complete(self, attempt: int, job: JobRow, step: StepRow, result: Mapping[str, Any]) -> None:
        """A step is done; the next one may start."""
        with self._transaction() as db:
            seconds = _end(db, attempt, "done")
            db.execute(
                "UPDATE steps SET result = ?, seconds = ? WHERE job_id = ? AND position = ?",
                (json.dumps(result), seconds, job.id, step.position),
            )
            _go_on(db, job.id)

    def plan(
        self, attempt: int, job: JobRow, *, steps: Sequence[Step], result: Mapping[str, Any], priority: int
    ) -> None:
        """Intake is done: these are the steps. What an earlier plan has done already is kept where it is the same."""
        content = _content(result)
        kept = sum(1 for _ in itertools.takewhile(_is_done, self.common_steps(job, steps, result)))
        with self._transaction() as db:
            seconds = _end(db, attempt, "done")
            db.execute("DELETE FROM steps WHERE job_id = ? AND position > ?", (job.id, kept))
            db.execute(
                "UPDATE steps SET result = ?, seconds = ? WHERE job_id = ? AND position = 0", (content, seconds, job.id)
            )
            _insert_steps(db, job.id, kept + 1, steps[kept:])
            # What was about to be published is so still if nothing is left to do but that.
            db.execute(
                "UPDATE jobs SET content = ?, priority = ?, waiting = NULL, publishing = iif(?, publishing, NULL)"
                " WHERE id = ?",
                (content, priority, kept == len(steps) - 1, job.id),
            )
            _go_on(db, job.id)

    def common_steps(self, job: JobRow, steps: Sequence[Step], result: Mapping[str, Any]) -> list[StepRow]:
        """The steps of the job's present plan that a new one begins with too; none if it is made from other things."""
        if job.content != _content(result):
            return []
        pairs = zip(self.steps(job.id)[1:], steps, strict=False)
        return [old for old, _ in itertools.takewhile(lambda pair: pair[0].does_the_same(pair[1]), pairs)]

    def put_off(self, attempt: int, job: JobRow, *, until: float, waiting: Mapping[str, Any]) -> None:
        """Intake must wait for files that are missing or still change; that counts as no attempt."""
        with self._transaction() as db:
            db.execute("DELETE FROM attempts WHERE id = ?", (attempt,))
            db.execute("UPDATE jobs SET not_before = ?, waiting = ? WHERE id = ?", (until, json.dumps(waiting), job.id))

    def start_over(self, job: JobRow, *, fingerprint: str, until: float) -> None:
        """The original changed after it was taken: read it again, not before `until`."""
        with self._transaction() as db:
            db.execute("UPDATE steps SET result = NULL WHERE job_id = ? AND position = 0", (job.id,))
            db.execute(
                "UPDATE jobs SET state = 'queued', position = 0, needs = ?, not_before = ?, fingerprint = ?"
                " WHERE id = ?",
                (join_needs(INTAKE.needs), until, fingerprint, job.id),
            )

    def try_again(self, attempt: int, job: JobRow, step: StepRow, *, error: str, until: float, died: bool) -> None:
        """A step failed for a passing reason."""
        with self._transaction() as db:
            _end(db, attempt, "died" if died else "transient", error)
            db.execute(
                "UPDATE steps SET failures = failures + 1 WHERE job_id = ? AND position = ?", (job.id, step.position)
            )
            db.execute(
                "UPDATE jobs SET not_before = ?, error = ?, deaths = deaths + ? WHERE id = ?",
                (until, _storable(error), died, job.id),
            )

    def give_up(self, attempt: int, job: JobRow, *, error: str, details: str, died: bool) -> None:
        """A step failed for good: what remains is to say so in the outbox."""
        with self._transaction() as db:
            _end(db, attempt, "died" if died else "permanent", error)
            db.execute("DELETE FROM steps WHERE job_id = ? AND stage = 'publish'", (job.id,))
            position = db.execute("SELECT max(position) + 1 FROM steps WHERE job_id = ?", (job.id,)).fetchone()[0]
            _insert_steps(db, job.id, position, [PUBLISH])
            db.execute(
                "UPDATE jobs SET error = ?, details = ?, deaths = deaths + ?, position = ?, needs = ?, not_before = 0,"
                " waiting = NULL, publishing = NULL WHERE id = ?",
                (_storable(error), _storable(details), died, position, join_needs(PUBLISH.needs), job.id),
            )

    def choose_stem(self, job: JobRow, stem: str) -> None:
        """The stem of all of the job's files in the outbox."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET stem = ? WHERE id = ?", (stem, job.id))

    def publish(self, job: JobRow, *, stem: str, hashes: Mapping[str, str]) -> None:
        """The files with these hashes are about to appear in the outbox."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET stem = ?, publishing = ? WHERE id = ?", (stem, json.dumps(hashes), job.id))
            self._keep_record(db, job.id)

    def finish(self, attempt: int, job: JobRow, state: str) -> None:
        """What was to be published is in the outbox."""
        with self._transaction() as db:
            _end(db, attempt, "done")
            db.execute(
                "UPDATE jobs SET state = ?, finished = ?, needs = NULL, not_before = 0, outputs = publishing,"
                " publishing = NULL, error = iif(? = 'done', NULL, error) WHERE id = ?",
                (state, time.time(), state, job.id),
            )
            self._keep_record(db, job.id)

    def cut_short(self) -> None:
        """Attempts that nobody carries on (of a daemon that is gone) are closed; they do not count."""
        with self._transaction() as db:
            update = "UPDATE attempts SET ended = ?, outcome = 'cut short' WHERE ended IS NULL"
            db.execute(update, (time.time(),))

    def cancelling(self) -> list[str]:
        """Jobs that were to be cancelled as soon as their steps had stopped, and are not yet."""
        query = "SELECT id FROM jobs INDEXED BY jobs_cancelling WHERE cancelling = 1 AND finished IS NULL"
        return [row["id"] for row in self._rows(query)]

    def follow_clock(self, seconds: float) -> None:
        """The clock was set by so many seconds: the times of jobs that are under way move with it."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET created = created + ?1, started = started + ?1,"
                " not_before = iif(not_before > 0, max(not_before + ?1, 0), 0) WHERE finished IS NULL",
                (seconds,),
            )
            db.execute("UPDATE attempts SET started = started + ? WHERE ended IS NULL", (seconds,))

    def clock_is_behind(self) -> float:
        """By how many seconds, at least, the clock was set back since the last attempt was entered; 0 if it was not."""
        return max(0.0, (self.last_moment() or 0.0) - time.time())

    def last_moment(self) -> float | None:
        """When the last attempt began or ended, by the clock of then; None when there is none."""
        last = self._value("SELECT max(started, ifnull(ended, started)) FROM attempts ORDER BY id DESC LIMIT 1")
        return None if last is None else float(last)

    def doubt_clock(self, until: float) -> None:
        """Until this time nothing is to be taken for old by the clock; remembered over restarts."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES ('clock doubted until', ?)", (str(until),))

    @property
    def clock_doubted_until(self) -> float:
        """What `doubt_clock` was told last."""
        return float(self._value("SELECT value FROM settings WHERE name = 'clock doubted until'") or 0.0)

    def _keep_record(self, db: sqlite3.Connection, job_id: str) -> None:
        steps = db.execute("SELECT * FROM steps WHERE job_id = ? ORDER BY position", (job_id,))
        attempts = db.execute("SELECT * FROM attempts WHERE job_id = ? ORDER BY id", (job_id,))
        record = {
            "job": dict(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()),
            "steps": [dict(row) for row in steps],
            "attempts": [dict(row) for row in attempts],
        }
        write_record(self._records / job_id, record)

    def restore(self, record: Record) -> None:
        """Put a job's record in the place of what is known of the job."""
        job_id = record["job"]["id"]
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            _insert(db, "jobs", record["job"])
            for step in record["steps"]:
                _insert(db, "steps", step)
            for attempt in record["attempts"]:
                _insert(db, "attempts", {**attempt, "id": None})
        self._last_id = max(self._last_id, job_id)

    # What people ask for

    def cancel_later(self, job: JobRow) -> None:
        """The job's running step is about to be stopped, and the job is cancelled then; see also `cancelling`.

        Raises:
            UsageError: it is finished already.
        """
        _check_unfinished(job)
        with self._transaction() as db:
            db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (job.id,))

    def cancel(self, job: JobRow) -> None:
        """Cancel a job that is not running.

        Raises:
            UsageError: it is finished already.
            OSError: its record cannot be written, so it is not cancelled.
        """
        _check_unfinished(job)
        try:
            with self._transaction() as db:
                now = time.time()
                db.execute(
                    "UPDATE attempts SET ended = ?, outcome = 'cancelled' WHERE job_id = ? AND ended IS NULL",
                    (now, job.id),
                )
                db.execute(
                    "UPDATE jobs SET state = 'cancelled', finished = ?, needs = NULL, not_before = 0, waiting = NULL,"
                    " cancelling = 0 WHERE id = ?",
                    (now, job.id),
                )
                self._keep_record(db, job.id)
        except BaseException:
            drop_record(self._records / job.id)  # the job goes on, and the next start would end it by the record
            raise

    def retry(self, job: JobRow) -> None:
        """Put a failed or cancelled job back into the queue; what it has done already is kept.

        Raises:
            UsageError: it did not fail, or its original is not kept any more.
            OSError: its record cannot be removed, so it stays as it is.
        """
        if job.state not in {"failed", "cancelled"}:
            raise UsageError(f"{job.name} ({job.id}) is {job.state}; only failed and cancelled jobs can be tried again")
        with self._transaction() as db:
            # Whether its folder is kept is asked here: a thread may have marked it for removal since `job` was read.
            queued = db.execute(
                "UPDATE jobs SET state = 'queued', finished = NULL, position = 0, needs = ?, not_before = 0,"
                " deaths = 0, error = NULL, details = NULL, waiting = NULL, bytes = NULL"
                " WHERE id = ? AND cleaned = 0 AND finished IS NOT NULL",
                (join_needs(INTAKE.needs), job.id),
            )
            if not queued.rowcount:
                raise UsageError(
                    f"{job.name} ({job.id}) is too old: its original is not kept any more; drop the file again"
                )
            db.execute("UPDATE steps SET failures = 0 WHERE job_id = ?", (job.id,))
            db.execute("UPDATE steps SET result = NULL WHERE job_id = ? AND position = 0", (job.id,))
            drop_record(self._records / job.id)

    def pause(self, paused: bool) -> None:
        """Start no new steps, or start them again; remembered over restarts."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO settings VALUES ('paused', ?)", ("yes" if paused else "no",))

    # Forgetting (see atenea.retention)

    def unmeasured(self, limit: int) -> list[JobRow]:
        """Finished jobs whose folders nobody has looked at since, the oldest first."""
        where = "WHERE bytes IS NULL AND cleaned = 0 AND finished IS NOT NULL ORDER BY finished LIMIT ?"
        return self._jobs(where, limit)

    def measured(self, sizes: Sequence[tuple[JobRow, int]]) -> None:
        """The folders of these jobs, as they are since they were finished, hold so many bytes."""
        update = "UPDATE jobs SET bytes = ? WHERE id = ? AND finished = ? AND cleaned = 0"
        with self._transaction() as db:
            db.executemany(update, [(size, job.id, job.finished) for job, size in sizes])

    def kept_bytes(self) -> int:
        """What the folders of finished jobs hold in all."""
        return int(self._value(f"SELECT sum(bytes) FROM jobs {_KEPT}") or 0)  # noqa: S608

    def oldest_kept(self, limit: int) -> list[tuple[str, int]]:
        """The jobs that finished first of those whose folders are kept, and the bytes in each."""
        query = f"SELECT id, bytes FROM jobs {_KEPT} ORDER BY finished LIMIT ?"  # noqa: S608
        return [(row["id"], row["bytes"] or 0) for row in self._rows(query, limit)]

    def expired(self, state: str, before: float, limit: int) -> list[str]:
        """Jobs of that final state that finished before that time, and whose folders are kept; the oldest first."""
        query = f"SELECT id FROM jobs {_KEPT} AND finished < ? AND state = ? ORDER BY finished LIMIT ?"  # noqa: S608
        return [row["id"] for row in self._rows(query, before, state, limit)]

    def cleaned(self, job_ids: Sequence[str]) -> None:
        """The folders of these jobs are about to go; of those that were not put back into the queue meanwhile."""
        update = "UPDATE jobs SET cleaned = 1 WHERE id = ? AND finished IS NOT NULL"
        with self._transaction() as db:
            db.executemany(update, [(job_id,) for job_id in job_ids])

    def going(self, limit: int) -> list[str]:
        """Jobs whose folders were about to go, and may still be there; the oldest first."""
        going = "cleaned = 1 AND bytes IS NOT 0 AND finished IS NOT NULL"
        query = f"SELECT id FROM jobs INDEXED BY jobs_going WHERE {going} ORDER BY finished LIMIT ?"  # noqa: S608
        return [row["id"] for row in self._rows(query, limit)]

    def gone(self, job_ids: Sequence[str]) -> None:
        """The folders of these jobs are gone."""
        with self._transaction() as db:
            db.executemany("UPDATE jobs SET bytes = 0 WHERE id = ?", [(job_id,) for job_id in job_ids])

    def forget(self, before: float, limit: int) -> int:
        """Delete so many of the jobs that finished before that time and whose folders are gone; how many it were."""
        oldest = "SELECT id FROM jobs WHERE cleaned = 1 AND bytes = 0 AND finished < ? ORDER BY finished LIMIT ?"
        with self._transaction() as db:
            return db.execute(f"DELETE FROM jobs WHERE id IN ({oldest})", (before, limit)).rowcount  # noqa: S608

    def _jobs(self, where: str, *values: Any) -> list[JobRow]:
        return [JobRow.of(dict(row)) for row in self._rows(f"SELECT * FROM jobs {where}", *values)]  # noqa: S608 - our own text


def _storable(text: str) -> str:
    """The text as UTF-8 can hold it: names of files may have other bytes in them, as surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _number(number: int) -> int | float:
    """A number as SQLite reads it in JSON: some file systems number their inodes beyond what its integers hold."""
    return number if number < 1 << 63 else float(number)


def _base32(number: int) -> str:
    return "".join(_DIGITS[number >> shift & 31] for shift in range(50, -1, -5))


def _successor(job_id: str) -> str:
    number = 0
    for digit in job_id:
        number = number << 5 | _DIGITS.index(digit)
    return _base32(number + 1)


def insertion(db: sqlite3.Connection, table: str, given: Collection[str]) -> tuple[str, list[str]]:
    """The statement that inserts a row of this version or an older one, and the columns that it wants values of.

    What is not given has its default; what is no column is left out.
    """
    known = [row["name"] for row in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    columns = [name for name in known if name in given]
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", columns  # noqa: S608 - our own names


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    statement, columns = insertion(db, table, row.keys())
    db.execute(statement, [row[name] for name in columns])


def _insert_steps(db: sqlite3.Connection, job_id: str, first: int, steps: Sequence[Step]) -> None:
    db.executemany(
        "INSERT INTO steps (job_id, position, stage, plugin, needs, options) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (job_id, position, step.stage, step.plugin, join_needs(step.needs), json.dumps(dict(step.options)))
            for position, step in enumerate(steps, first)
        ],
    )


def _end(db: sqlite3.Connection, attempt: int, outcome: str, error: str | None = None) -> float:
    """Close an attempt; how many seconds it took."""
    now = time.time()
    values = (now, outcome, None if error is None else _storable(error), attempt)
    db.execute("UPDATE attempts SET ended = ?, outcome = ?, error = ? WHERE id = ?", values)
    started = db.execute("SELECT started FROM attempts WHERE id = ?", (attempt,)).fetchone()[0]
    return max(0.0, now - float(started))


def _go_on(db: sqlite3.Connection, job_id: str) -> None:
    """Make the first step that is not done the next one."""
    db.execute(
        "UPDATE jobs SET (position, needs) = (SELECT position, needs FROM steps WHERE job_id = jobs.id"
        " AND result IS NULL ORDER BY position LIMIT 1), not_before = 0, error = NULL WHERE id = ?",
        (job_id,),
    )


def _check_unfinished(job: JobRow) -> None:
    if job.is_final:
        raise UsageError(f"{job.name} ({job.id}) is {job.state} already; there is nothing to cancel")


def _is_done(step: StepRow) -> bool:
    return step.result is not None


def _content(result: Mapping[str, Any]) -> str:
    """What intake found out about the job's inputs, as it is compared."""
    return json.dumps(result, sort_keys=True)
