"""What the commands ask of the queue; the daemon answers over its socket, and without it a command does it itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from atenea.control import MOST, RECENT
from atenea.errors import UsageError
from atenea.estimate import GPU, Forecast, forecast_of, forecasts, starts
from atenea.ledger import Ledger
from atenea.places import HasPlaces
from atenea.progress import Progress
from atenea.rows import JobRow
from atenea.views import job_details, job_view

_NEXT = 1000
"""Unfinished jobs in a list; an answer takes time that the daemon does nothing else in."""


class Running(Protocol):
    """What only a running daemon knows and does."""

    def progress(self, job_id: str) -> Progress | None:
        """How far the job's running step is; None when no step of it runs."""

    def trouble(self, job_id: str) -> str | None:
        """What keeps the daemon from going on with the job (a full disk, say)."""

    def slots(self, need: str) -> int:
        """How many steps with this need run at once."""

    def stop_step(self, job_id: str) -> None:
        """Cancel the job's running step, and then the job."""

    def wake(self) -> None:
        """Look at the inbox and the ledger now."""

    def status(self) -> dict[str, Any]:
        """What else `atenea jobs` says above its list."""


class NotRunning:
    """No daemon: nothing runs."""

    def progress(self, job_id: str) -> Progress | None:  # noqa: D102, ARG002
        return None

    def trouble(self, job_id: str) -> str | None:  # noqa: D102, ARG002
        return None

    def slots(self, need: str) -> int:  # noqa: D102, ARG002
        return 0

    def stop_step(self, job_id: str) -> None:  # noqa: D102
        pass

    def wake(self) -> None:  # noqa: D102
        pass

    def status(self) -> dict[str, Any]:  # noqa: D102
        return {"daemon": False}


class QueueDesk:
    """Answers requests; a request is a command's name and JSON values."""

    def __init__(self, config: HasPlaces, ledger: Ledger, running: Running) -> None:
        self.config = config
        self._ledger = ledger
        self._running = running
        self._commands: dict[str, Callable[..., dict[str, Any]]] = {
            command.__name__: command
            for command in (
                *(self.jobs, self.show, self.taken),
                *(self.cancel, self.retry, self.pause, self.resume, self.wake),
            )
        }

    def carry_out(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one of our own commands.

        Raises:
            AteneaError: it cannot be done; the sentence says why.
        """
        return self._commands[command](**arguments)

    def answer(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out what anybody may have written into the socket; see `carry_out`."""
        from pydantic import ConfigDict, ValidationError, validate_call  # noqa: PLC0415 - the commands do without it

        if command not in self._commands:
            raise UsageError(f"{command}: unknown command of the control socket")
        try:
            strictly = validate_call(config=ConfigDict(strict=True))
            return strictly(self._commands[command])(**arguments)
        except ValidationError as error:
            reasons = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
            raise UsageError(f"{command}: {'; '.join(reasons)}") from None

    def jobs(self, limit: int = RECENT) -> dict[str, Any]:
        """The unfinished jobs, as far as one wants to see them, then those that finished last."""
        if not 0 <= limit <= MOST:
            raise UsageError(f"jobs: limit: {limit} is not from 0 to {MOST:,}")
        active = self._ledger.active(_NEXT)
        renders = self._renders()
        turns = self._turns(active, renders)
        rows = active + self._ledger.finished(limit)
        return {
            **self._running.status(),
            "paused": self._ledger.paused,
            "more": sum(self._ledger.counts().values()) - len(active),
            "jobs": [{**self._view(row, renders.get(row.id)), "starts_in": turns.get(row.id)} for row in rows],
        }

    def show(self, job: str) -> dict[str, Any]:
        """Everything about one job."""
        row = self._with_trouble(self._find(job))
        paths = self.config.paths
        folder = str(self.config.jobs / row.id)
        turns = self._turns(self._ledger.active(_NEXT), self._renders())
        details = job_details(row, self._running.progress(row.id), self._ledger, str(paths.outbox), folder)
        return {**details, "starts_in": turns.get(row.id)}

    def cancel(self, job: str) -> dict[str, Any]:
        """Cancel a job; a running step gets a while to stop."""
        row = self._find(job)
        progress = self._running.progress(row.id)
        if row.publishing or (progress and progress.stage == "publish"):
            raise UsageError(f"{row.name} ({row.id}) is finished and being published; there is nothing to cancel")
        if progress and not row.is_final:
            self._ledger.cancel_later(row)  # for the next daemon, if this one does not live to see the step stop
            self._running.stop_step(row.id)
        else:
            self._ledger.cancel(row)
        return self._changed(row)

    def retry(self, job: str) -> dict[str, Any]:
        """Put a failed or cancelled job back into the queue."""
        row = self._find(job)
        self._ledger.retry(row)
        return self._changed(row)

    def pause(self) -> dict[str, Any]:
        """Start no new stages."""
        self._ledger.pause(True)
        return {"paused": True}

    def resume(self) -> dict[str, Any]:
        """Start stages again."""
        self._ledger.pause(False)
        self._running.wake()
        return {"paused": False}

    def taken(self, device: int, inode: int) -> dict[str, Any]:
        """The job that a file of the inbox has become, if it was taken."""
        row = self._ledger.taken_from(device, inode)
        return {**self._running.status(), "job": self._view_one(row) if row else None}

    def wake(self) -> dict[str, Any]:
        """Look at the inbox now."""
        self._running.wake()
        return {}

    def _renders(self) -> dict[str, Forecast]:
        return forecasts(self._ledger, self._ledger.next_renders(_NEXT))

    def _turns(self, active: Sequence[JobRow], renders: Mapping[str, Forecast]) -> dict[str, float]:
        """In how many seconds renders start that wait for their turn, as far as that can be told."""
        if self._ledger.paused:
            return {}
        steps = {row.id: self._running.progress(row.id) for row in active}
        left = {job_id: progress.seconds_left for job_id, progress in steps.items() if progress}
        turns = starts(active, renders, left, self._running.slots(GPU), time.time())
        return {job_id: round(seconds, 2) for job_id, seconds in turns.items()}

    def _changed(self, row: JobRow) -> dict[str, Any]:
        self._running.wake()
        return {"job": self._view_one(self._find(row.id))}

    def _view_one(self, row: JobRow) -> dict[str, Any]:
        return self._view(row, forecast_of(self._ledger, row.id))

    def _view(self, row: JobRow, forecast: Forecast | None) -> dict[str, Any]:
        return job_view(self._with_trouble(row), self._running.progress(row.id), forecast)

    def _with_trouble(self, row: JobRow) -> JobRow:
        """The job, and why the daemon cannot go on with it now, which no ledger on a full disk could hold."""
        return replace(row, error=row.error or self._running.trouble(row.id))

    def _find(self, reference: str) -> JobRow:
        row = self._ledger.find(reference)
        if row is None:
            raise UsageError(f"{reference}: there is no such job; see: atenea jobs")
        return row
