"""Notices that somebody, or the network, set the system's clock, so that nothing waits for a time that was moved."""

from __future__ import annotations

import time

_LEAST_SECONDS = 2.0
"""Smaller corrections are the daily work of NTP, and harm nobody."""


class ClockWatch:
    """Compares the clock, which can be set, with one that only counts; both go on while the machine sleeps."""

    def __init__(self) -> None:
        self._difference = _difference()

    def set_by(self) -> float:
        """By how many seconds the clock was set since `follow` was called: negative for back, 0 for hardly at all."""
        moved = _difference() - self._difference
        return moved if abs(moved) >= _LEAST_SECONDS else 0.0

    def follow(self, seconds: float) -> None:
        """What was set has been dealt with."""
        self._difference += seconds


def _difference() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
