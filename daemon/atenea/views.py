"""Jobs as the commands show them: JSON values with stable names (docs/reference.md lists them)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atenea.estimate import Forecast, forecast_of
from atenea.job_files import job_files
from atenea.job_log import last_lines
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.report import iso_time
from atenea.rows import AttemptRow, JobRow, StepRow

_Work = tuple[str, str]
"""A step's stage and plugin."""

LOG_LINES = 100
"""The last lines of a job's log in `atenea show --json`."""


def job_view(job: JobRow, progress: Progress | None, forecast: Forecast | None = None) -> dict[str, Any]:
    """One job in the list of `atenea jobs --json`; the forecast is of its render, if that is next or runs."""
    progress = None if job.is_final else progress  # the step that ends a job ends a moment later itself
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
        "frames_per_second": _rounded(progress.frames_per_second) if progress else None,
        "render_seconds": _rounded(forecast.seconds) if forecast else None,
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
    steps = ledger.steps(job.id)
    outputs = [f"{outbox}/{job.stem}{suffix}" for suffix in sorted(job.outputs)]
    times = _times(job, steps, attempts, running=progress is not None)
    # Publishing ends the job, so the ledger has no result of it: a job that was not ended by it is to be published.
    last = attempts[-1] if attempts else None
    published = last if job.finished and last and (last.stage, last.outcome) == ("publish", "done") else None
    return {
        **job_view(job, progress, forecast_of(ledger, job.id)),
        "details": job.details,
        "file": job.relative,
        "folder": None if job.cleaned else folder,
        "outputs": outputs,
        "files": job_files(Path(folder), steps, outputs),
        "log": last_lines(Path(folder), LOG_LINES),
        "steps": [_step_view(step, published, times.get((step.stage, step.plugin), (None, None))) for step in steps],
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


def _step_view(
    step: StepRow, published: AttemptRow | None, times: tuple[float, float] | tuple[None, None]
) -> dict[str, Any]:
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
        "waited": _rounded(times[0]),
        "ran": _rounded(times[1]),
    }


def _times(
    job: JobRow, steps: Sequence[StepRow], attempts: Sequence[AttemptRow], *, running: bool
) -> dict[_Work, tuple[float, float]]:
    """How many seconds each step waited for its attempts in all, up to now, and how many seconds these took.

    An attempt that is open although none runs is of a daemon that is gone; nobody knows when it ended.
    """
    now = time.time()
    times: dict[_Work, tuple[float, float]] = {}

    def add(work: _Work, waited: float, ran: float) -> None:
        before = times.get(work, (0.0, 0.0))
        times[work] = before[0] + max(0.0, waited), before[1] + max(0.0, ran)

    free = job.created
    for attempt in attempts:
        ended = attempt.ended or (now if running else attempt.started)
        add((attempt.stage, attempt.plugin), attempt.started - free, ended - attempt.started)
        free = ended
    if not job.is_final:
        add((steps[job.position].stage, steps[job.position].plugin), now - free, 0.0)
    return times


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
