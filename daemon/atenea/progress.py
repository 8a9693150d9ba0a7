"""How far the running steps are: kept in memory only, shown by `atenea jobs`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from atenea.estimate import Forecast
from atenea.rows import StepRow


@dataclass
class Progress:
    """One running step; `fraction` goes from 0 to 1.

    Its pace is measured from the first fraction above 0 that it reports: what came before was preparing, or the work of
    an earlier attempt that this one goes on from.

    Attributes:
        forecast: of a render, what earlier renders tell of it.
    """

    stage: str
    plugin: str
    fraction: float = 0.0
    text: str = ""
    forecast: Forecast | None = None
    _since: float = field(default_factory=time.monotonic)
    _first: float = 0.0
    _last: float = 0.0

    @classmethod
    def of(cls, step: StepRow, forecast: Forecast | None = None) -> Progress:
        """Of a step that starts now."""
        return cls(stage=step.stage, plugin=step.plugin, forecast=forecast)

    def update(self, fraction: float, text: str) -> None:
        """Take over what the stage says."""
        now = time.monotonic()
        if fraction < self._first or self._first == 0 < fraction:
            self._since, self._first = now, fraction
        if fraction != self.fraction:
            self._last = now
        self.fraction = fraction
        self.text = text

    @property
    def seconds_left(self) -> float | None:
        """How long the step will still take if it goes on like this; None while nothing is known.

        Until it has a pace of its own, a render goes by its forecast.
        """
        if pace := self._pace:
            return (1 - self.fraction) / pace
        if self.forecast is None or self.forecast.seconds is None:
            return None
        left = self.forecast.seconds * (1 - self.fraction) - (time.monotonic() - self._since)
        return left if left > 0 else None

    @property
    def frames_per_second(self) -> float | None:
        """Of a render; None while nothing is known."""
        return self.forecast.frames * self._pace if self.forecast and self._pace else None

    @property
    def _pace(self) -> float | None:
        """What fraction of the step is done in each second, on the average from the first to the last report."""
        grown, seconds = self.fraction - self._first, self._last - self._since
        return grown / seconds if self._first > 0 and grown > 0 and seconds > 0 else None
