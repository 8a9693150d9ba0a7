"""How far the running steps are: kept in memory only, shown by `atenea jobs`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from atenea.rows import StepRow


@dataclass
class Progress:
    """One running step; `fraction` goes from 0 to 1."""

    stage: str
    plugin: str
    fraction: float = 0.0
    text: str = ""
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, step: StepRow) -> Progress:
        """Of a step that starts now."""
        return cls(stage=step.stage, plugin=step.plugin)

    def update(self, fraction: float, text: str) -> None:
        """Take over what the stage says."""
        self.fraction = fraction
        self.text = text

    @property
    def seconds_left(self) -> float | None:
        """How long the step will still take if it goes on like this; None while nothing is known."""
        if self.fraction <= 0:
            return None
        return (time.monotonic() - self.began) * (1 - self.fraction) / self.fraction
