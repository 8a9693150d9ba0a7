"""What rests because the daemon could not go on with it, for no fault of a job: a full disk, or no new process."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 60.0


class Rests:
    """A rest is for one thing, by its name, and twice as long each time until it is `over`, up to a minute.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._resting: dict[str, tuple[float, str]] = {}

    def begin(self, name: str, reason: str) -> None:
        """It has failed: leave it alone for a while; one failure and those that come while it rests are one."""
        if self.reason(name) is not None:
            return
        seconds = self._seconds.get(name, _FIRST_SECONDS)
        self._seconds[name] = min(2 * seconds, _LONGEST_SECONDS)
        self._resting[name] = self._clock() + seconds, reason

    def over(self, name: str) -> None:
        """It has succeeded."""
        self._seconds.pop(name, None)
        self._resting.pop(name, None)

    def reason(self, name: str) -> str | None:
        """Why it rests; None if it does not, or not any more."""
        until, reason = self._resting.get(name, (0.0, ""))
        if until > self._clock():
            return reason
        self._resting.pop(name, None)
        return None

    def next_end(self) -> float | None:
        """In how many seconds the first rest ends; None without any."""
        now = self._clock()
        self._resting = {name: rest for name, rest in self._resting.items() if rest[0] > now}
        return min((until - now for until, _ in self._resting.values()), default=None)

    def __len__(self) -> int:
        return len(self._resting)
