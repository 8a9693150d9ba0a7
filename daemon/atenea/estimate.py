"""How long a render will take, by how long others like it took on this machine: functions of the ledger's rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atenea.ledger import Ledger
from atenea.rows import RenderRow

PACE_OPTIONS = ("width", "height", "num_inference_steps", "device", "dtype")
"""Options of render plugins on which the time for one frame depends, as far as a plugin has them."""

SAMPLE_RATE = 16_000
USUAL_FPS = 25
_MOST_FPS = 1000

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
    return Forecast(frames, frames * statistics.median(each) if each else None)


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


def _defaults(past: Sequence[RenderRow]) -> dict[str, Any]:
    """The options' defaults, as far as past renders show them; as the latest ones do, if they have changed."""
    found: dict[str, Any] = {}
    for render in reversed(past):
        found |= {name: value for name, value in (render.options or {}).items() if name not in render.given}
    return found


def _pace(options: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(options.get(name) for name in PACE_OPTIONS)
