"""Jobs in a real ledger, brought as far as a test wants them."""

from __future__ import annotations

import itertools

from atenea.inbox.taken import TakenRow
from atenea.ledger import Ledger
from atenea.rows import MUX, PUBLISH, JobRow, Step

STEPS = (
    Step(stage="tts", plugin="espeak", needs=frozenset({"cpu"}), options={"voice": "en"}),
    Step(stage="audio", plugin="wav", needs=frozenset({"cpu"})),
    Step(stage="render", plugin="preview", needs=frozenset({"cpu"})),
    MUX,
    PUBLISH,
)
"""What intake plans for a text."""


class Jobs:
    """Brings jobs of a ledger as far as a test wants them."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._inodes = itertools.count(1)

    def take(self, name: str = "hello", **more: object) -> JobRow:
        """A job as it is after it was taken from the inbox."""
        (job_id,) = self.ledger.new_ids(1)
        values = {
            "job_id": job_id,
            "relative": f"{name}.txt",
            "preset": None,
            "name": name,
            "fingerprint": "f",
            "copied": False,
            "source": {"device": 7, "inode": next(self._inodes), "readings": []},
            **more,
        }
        self.ledger.add_taken([TakenRow(**values)])  # type: ignore[arg-type]
        return self.now(job_id)

    def now(self, job: JobRow | str) -> JobRow:
        """The job as it is by now."""
        row = self.ledger.job(job if isinstance(job, str) else job.id)
        assert row is not None
        return row

    def begin(self, job: JobRow | str) -> int:
        """The job's next step starts; its attempt."""
        row = self.now(job)
        return self.ledger.begin(row, self.ledger.steps(row.id)[row.position])

    def planned(self, name: str = "hello", steps: tuple[Step, ...] = STEPS, *, priority: int = 0) -> JobRow:
        """A job after intake."""
        job = self.take(name)
        self.plan(job, steps, priority=priority)
        return self.now(job)

    def plan(self, job: JobRow | str, steps: tuple[Step, ...] = STEPS, *, inputs: str = "a", priority: int = 0) -> None:
        """Intake runs, and says this."""
        attempt = self.begin(job)
        result = {"inputs": {"text": inputs}}
        self.ledger.plan(attempt, self.now(job), steps=steps, result=result, priority=priority)

    def complete(self, job: JobRow | str, **result: object) -> None:
        """The job's next step runs and is done."""
        row = self.now(job)
        step = self.ledger.steps(row.id)[row.position]
        self.ledger.complete(self.begin(row), row, step, result)

    def to_publish(self, name: str = "hello") -> JobRow:
        """A job of which all is done but publishing."""
        job = self.planned(name)
        for _ in STEPS[:-1]:
            self.complete(job)
        return self.now(job)

    def finish(self, job: JobRow, state: str = "done") -> JobRow:
        """The job's answers are in the outbox."""
        self.ledger.finish(self.begin(job), self.now(job), state)
        return self.now(job)

    def failed(self, name: str = "hello", error: str = "it broke") -> JobRow:
        """A job that failed at intake."""
        job = self.take(name)
        self.ledger.give_up(self.begin(job), job, error=error, details="", died=False)
        return self.finish(self.now(job), "failed")
