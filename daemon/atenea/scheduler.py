"""Which steps start now, and when a failed one is tried again: pure functions of the ledger's rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from atenea.config import Retry
from atenea.rows import JobRow, split_needs

_LONGEST_WAIT = 86_400.0
"""What the other side may ask for at most."""


def choose(ready: Iterable[JobRow], free: Mapping[str, int]) -> list[JobRow]:
    """The jobs whose next step starts now: by priority, then age, as far as what they need is free.

    A step that does not fit does not hold up one that needs other things.
    """
    left = dict(free)
    chosen = []
    for job in sorted(ready, key=lambda job: (-job.priority, job.id)):
        needs = split_needs(job.needs or "")
        if all(left.get(need, 0) > 0 for need in needs):
            for need in needs:
                left[need] -= 1
            chosen.append(job)
    return chosen


def free_slots(capacity: Mapping[str, int], running: Iterable[frozenset[str]]) -> dict[str, int]:
    """What is left of the capacity beside the steps that run."""
    free = dict(capacity)
    for needs in running:
        for need in needs:
            free[need] = free.get(need, 0) - 1
    return free


def retry_delay(failures: int, retry: Retry, retry_after: float | None = None) -> float:
    """Seconds until the next attempt: growing with each failure, with jitter so that many do not come at once.

    `retry_after`, what the other side asked for, is the least, up to a day.
    """
    delay = min(retry.first_seconds * retry.factor ** min(failures, 64), retry.max_seconds)
    return max(delay * random.uniform(0.8, 1.2), min(retry_after or 0.0, _LONGEST_WAIT))  # noqa: S311 - no secret depends on it


def may_try_again(failures: int, deaths: int, retry: Retry) -> bool:
    """Whether a step that failed so often, in a job whose workers died so often, gets another attempt."""
    return failures < retry.attempts and deaths < retry.worker_deaths
