"""How long a render will take, and when it starts, by how long others like it took on this machine.

Functions of the ledger's rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atenea.ledger import Ledger
from atenea.rows import JobRow, RenderRow

PACE_OPTIONS = ("width", "height", "num_inference_steps", "device", "dtype")
"""Options of render plugins on which the time for one frame depends, as far as a plugin has them."""

SAMPLE_RATE = 16_000
USUAL_FPS = 25
_MOST_FPS = 1000

GPU = "gpu"

_BEFORE_RENDER = frozenset({"queued", "tts", "audio"})
"""States of jobs whose render is still to come, unless it is their next step."""

_MEDIAN_OF = 20
"""Renders like it that count, the latest ones."""

_RENDERS = 60
"""Renders of the plugin among which those like it are looked for."""

_JOBS = 1000
"""Finished jobs among which renders of the plugin are looked for."""


@dataclass(frozen=True)
class Forecast:
    """What is known of a render before it starts.

    Attributes:
        frames: how many frames the video will have.
        seconds: how long the render will take from its start; None with no renders like it to go by.
    """

    frames: int
    seconds: float | None


def forecast(render: RenderRow, past: Sequence[RenderRow]) -> Forecast:
    """How long a render will take: its frames times the median time for a frame of past renders like it.

    Like it are those of the same plugin with the same `PACE_OPTIONS`. Where the job leaves an option out, its default
    counts, which past renders know that left it out too.

    Args:
        past: finished renders of the same plugin, the latest first.
    """
    defaults = _defaults(past)
    options = {**defaults, **render.given}
    frames = frame_count(render.samples, options)
    like_it = [other for other in past if _pace(other.options or {}) == _pace(options)][:_MEDIAN_OF]
    each = [(other.seconds or 0.0) / frame_count(other.samples, other.options or {}) for other in like_it]
    from statistics import median  # noqa: PLC0415 - takes a while, and most lists of jobs need none

    return Forecast(frames, frames * median(each) if each else None)


def frame_count(samples: int, options: Mapping[str, Any]) -> int:
    """How many frames show `samples` samples, one or more, of speech at 16 kHz: ceil(samples x fps / 16000)."""
    fps = options.get("fps")
    if not isinstance(fps, int | float) or not 0 < fps <= _MOST_FPS:  # an option of this name may be anything
        fps = USUAL_FPS
    return max(1, int(-(-samples * fps // SAMPLE_RATE)))


def forecasts(ledger: Ledger, renders: Iterable[RenderRow]) -> dict[str, Forecast]:
    """The forecasts of renders, by their jobs' ids."""
    past: dict[str, list[RenderRow]] = {}
    found = {}
    for render in renders:
        if render.plugin not in past:
            past[render.plugin] = ledger.past_renders(render.plugin, limit=_RENDERS, within=_JOBS)
        found[render.job_id] = forecast(render, past[render.plugin])
    return found


def forecast_of(ledger: Ledger, job_id: str) -> Forecast | None:
    """The forecast of the job's render, if that is its next step or runs."""
    render = ledger.next_render(job_id)
    return forecasts(ledger, [render])[job_id] if render else None


def starts(
    jobs: Sequence[JobRow],
    renders: Mapping[str, Forecast],
    running: Mapping[str, float | None],
    gpus: int,
    now: float,
) -> dict[str, float]:
    """In how many seconds those renders will start that wait for others on the GPU, by their jobs' ids.

    They take turns, each when the ones before it are done. From the first job on that nobody knows the time of, there
    is nothing to tell; nor of renders on the CPU, which they share with all other work. Jobs that wait for a time or a
    file are left out: they come when they come.

    Args:
        jobs: the unfinished ones, in the order in which they are served.
        renders: forecasts of those whose render is the next step, or runs.
        running: how many seconds the steps that run will still take, as far as that is known, by their jobs' ids.
        gpus: how many steps run on GPUs at once.
        now: seconds since 1970.
    """
    free = [running[job.id] for job in jobs if job.id in running and job.needs == GPU]
    if not free or len(free) < gpus:  # the next one starts now
        return {}
    known = [seconds for seconds in free if seconds is not None]
    return dict(_turns(jobs, renders, running, known, now)) if len(known) == len(free) else {}


def _turns(
    jobs: Iterable[JobRow],
    renders: Mapping[str, Forecast],
    running: Mapping[str, float | None],
    free: list[float],
    now: float,
) -> Iterator[tuple[str, float]]:
    """`free`: when each GPU is free."""
    heapq.heapify(free)
    for job in jobs:
        render = renders.get(job.id)
        if job.waiting or job.not_before > now:
            continue
        if render is None and job.state in _BEFORE_RENDER:
            return
        if render is None or job.id in running or job.needs != GPU:
            continue
        yield job.id, free[0]
        if render.seconds is None:
            return
        heapq.heapreplace(free, free[0] + render.seconds)


def _defaults(past: Sequence[RenderRow]) -> dict[str, Any]:
    """The options' defaults, as far as past renders show them; as the latest ones do, if they have changed."""
    found: dict[str, Any] = {}
    for render in reversed(past):
        found |= {name: value for name, value in (render.options or {}).items() if name not in render.given}
    return found


def _pace(options: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(options.get(name) for name in PACE_OPTIONS)
