"""Jobs as the commands show them: JSON values with stable names (docs/reference.md lists them)."""

from __future__ import annotations

from typing import Any

from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.report import iso_time
from atenea.rows import AttemptRow, JobRow, StepRow


def job_view(job: JobRow, progress: Progress | None) -> dict[str, Any]:
    """One job in the list of `atenea jobs --json`."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "running": progress is not None,
        "stage": progress.stage if progress else None,
        "plugin": (progress.plugin or None) if progress else None,
        "fraction": round(progress.fraction, 4) if progress else None,
        "progress": progress.text if progress else "",
        "seconds_left": _rounded(progress.seconds_left) if progress else None,
        "priority": job.priority,
        "preset": job.preset,
        "taken": iso_time(job.created),
        "started": iso_time(job.started),
        "finished": iso_time(job.finished),
        "next_attempt": iso_time(job.not_before) if job.not_before and not progress else None,
        "waiting_for": sorted(job.waiting),
        "error": job.error,
    }


def job_details(job: JobRow, progress: Progress | None, ledger: Ledger, outbox: str, folder: str) -> dict[str, Any]:
    """One job as `atenea show --json` prints it."""
    attempts = ledger.attempts(job.id)
    # Publishing ends the job, so the ledger has no result of it: a job that was not ended by it is to be published.
    last = attempts[-1] if attempts else None
    published = last if job.finished and last and (last.stage, last.outcome) == ("publish", "done") else None
    return {
        **job_view(job, progress),
        "details": job.details,
        "file": job.relative,
        "folder": None if job.cleaned else folder,
        "outputs": [f"{outbox}/{job.stem}{suffix}" for suffix in sorted(job.outputs)],
        "steps": [_step_view(step, published) for step in ledger.steps(job.id)],
        "attempts": [
            {
                "stage": attempt.stage,
                "plugin": attempt.plugin or None,
                "started": iso_time(attempt.started),
                "ended": iso_time(attempt.ended),
                "outcome": attempt.outcome or "running",
                "error": attempt.error,
            }
            for attempt in attempts
        ],
    }


def _step_view(step: StepRow, published: AttemptRow | None) -> dict[str, Any]:
    seconds = step.seconds
    done = step.result is not None
    if step.stage == "publish" and published:
        done = True
        seconds = published.ended - published.started if published.ended else None
    return {
        "stage": step.stage,
        "plugin": step.plugin or None,
        "needs": sorted(step.needs),
        "options": dict((step.result or {}).get("options", step.options)),
        "done": done,
        "failures": step.failures,
        "seconds": _rounded(seconds),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
