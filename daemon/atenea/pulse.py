"""Whether the daemon gets on: what the service manager's watchdog is told by."""

from __future__ import annotations

import time
from collections.abc import Callable

from atenea import threads


class Pulse:
    """Kept by the daemon's loops: each says when it comes round again, or that it waits for file work.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def due(self, loop: str, seconds: float) -> None:
        """The loop has come round, and does so again within so many seconds."""
        self._due[loop] = self._clock() + seconds

    def at_work(self, loop: str) -> None:
        """The loop waits for file work, however long it takes: its thread tells whether that gets on."""
        self._due.pop(loop, None)

    def standstill(self) -> float:
        """For how many seconds a loop is late, or file work has not got on; the longest counts."""
        now = self._clock()
        return max(threads.standstill() or 0.0, *(now - due for due in self._due.values()), 0.0)
