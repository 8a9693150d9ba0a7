"""What `systemctl status` says of the daemon: what runs, how far it is, and how much waits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from atenea.durations import spoken_duration
from atenea.ledger import Ledger
from atenea.naming import printable
from atenea.progress import Progress

_MOST_TOLD = 3


def status_line(running: Mapping[str, Progress], ledger: Ledger) -> str:
    """One line, whatever the jobs' names are; `running` has the steps that run by their jobs' ids."""
    waiting = max(sum(ledger.counts().values()) - len(running), 0)  # a step may end only after its job has
    told = [_told(job_id, progress, ledger) for job_id, progress in islice(running.items(), _MOST_TOLD)]
    if len(running) > _MOST_TOLD:
        told.append(f"{len(running) - _MOST_TOLD} more")
    return f"{'; '.join(told) or 'idle'}; {waiting} waiting{', paused' if ledger.paused else ''}"


def _told(job_id: str, progress: Progress, ledger: Ledger) -> str:
    job = ledger.job(job_id)
    by = f" by {progress.plugin}" if progress.plugin else ""
    left = progress.seconds_left
    time_left = f", about {spoken_duration(left)} left" if left is not None else ""
    return f"{printable(job.name if job else job_id)}: {progress.stage}{by} {progress.fraction:.0%}{time_left}"
