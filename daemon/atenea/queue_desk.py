"""What the commands ask of the queue; the daemon answers over its socket, and without it a command does it itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from atenea.config import Config
from atenea.errors import UsageError
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.rows import JobRow
from atenea.views import job_details, job_view

RECENT = 20
"""Finished jobs in a list, unless more are asked for."""


class Running(Protocol):
    """What only a running daemon knows and does."""

    def progress(self, job_id: str) -> Progress | None:
        """How far the job's running step is; None when no step of it runs."""

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

    def stop_step(self, job_id: str) -> None:  # noqa: D102
        pass

    def wake(self) -> None:  # noqa: D102
        pass

    def status(self) -> dict[str, Any]:  # noqa: D102
        return {"daemon": False}


class QueueDesk:
    """Answers requests; a request is a command's name and JSON values."""

    def __init__(self, config: Config, ledger: Ledger, running: Running) -> None:
        self.config = config
        self._ledger = ledger
        self._running = running
        self._commands: Mapping[str, Callable[..., dict[str, Any]]] = {
            "jobs": self.jobs,
            "show": self.show,
            "cancel": self.cancel,
            "retry": self.retry,
            "pause": self.pause,
            "resume": self.resume,
            "taken": self.taken,
            "wake": self.wake,
        }

    def answer(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a command.

        Raises:
            AteneaError: it cannot be done; the sentence says why.
        """
        if command not in self._commands:
            raise UsageError(f"{command}: unknown command of the control socket")
        try:
            return self._commands[command](**arguments)
        except TypeError as error:
            raise UsageError(f"{command}: {error}") from None

    def jobs(self, limit: int = RECENT) -> dict[str, Any]:
        """The unfinished jobs, then those that finished last."""
        rows = self._ledger.active() + self._ledger.finished(limit)
        return {**self._running.status(), "paused": self._ledger.paused, "jobs": [self._view(row) for row in rows]}

    def show(self, job: str) -> dict[str, Any]:
        """Everything about one job."""
        row = self._find(job)
        paths = self.config.paths
        folder = str(self.config.jobs / row.id)
        return job_details(row, self._running.progress(row.id), self._ledger, str(paths.outbox), folder)

    def cancel(self, job: str) -> dict[str, Any]:
        """Cancel a job; a running step gets a while to stop."""
        row = self._find(job)
        if not row.is_final and self._running.progress(row.id):
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
        return {"job": self._view(row) if row else None}

    def wake(self) -> dict[str, Any]:
        """Look at the inbox now."""
        self._running.wake()
        return {}

    def _changed(self, row: JobRow) -> dict[str, Any]:
        self._running.wake()
        return {"job": self._view(self._find(row.id))}

    def _view(self, row: JobRow) -> dict[str, Any]:
        return job_view(row, self._running.progress(row.id))

    def _find(self, reference: str) -> JobRow:
        row = self._ledger.find(reference)
        if row is None:
            raise UsageError(f"{reference}: there is no such job; see: atenea jobs")
        return row
