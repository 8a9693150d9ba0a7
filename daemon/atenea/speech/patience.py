"""Tries again what failed for a while: growing delays with jitter, what the server asks for, and an end to it.

Requests that run side by side share one `Patience`, because a server's limit on one of them is a limit on all.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from atenea.errors import TransientError

Result = TypeVar("Result")

LONGEST_WAIT = 60.0
"""Seconds to wait here at most; a server that asks for more is left to the daemon, which has other work meanwhile."""


class Patience:
    """Made inside a running event loop.

    Args:
        seconds: until everything must be done.
        attempts: how often one piece of work may fail in a row.
        first_delay: seconds after the first failure; they double with each, up to `LONGEST_WAIT`.
        on_failure: told each failure that is tried again, and the seconds until then.
    """

    def __init__(
        self,
        seconds: float,
        *,
        attempts: int = 6,
        first_delay: float = 1.0,
        on_failure: Callable[[TransientError, float], None] = lambda _error, _delay: None,
    ) -> None:
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + seconds
        self._attempts = attempts
        self._first_delay = first_delay
        self._on_failure = on_failure
        self._not_before = 0.0
        self._stopped = False

    def hold(self, seconds: float) -> None:
        """Begin nothing for so long: a limit is used up."""
        self._not_before = max(self._not_before, self._clock() + min(seconds, LONGEST_WAIT))

    def stop(self) -> None:
        """Let what runs come to its end, but try nothing again."""
        self._stopped = True

    async def persist(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """What `attempt` gives, called again while it raises TransientError.

        Raises:
            TransientError: the last one, or the time is over.
        """
        failures = 0
        while True:
            try:
                async with asyncio.timeout_at(self._end) as limit:
                    await self._wait_for_turn()
                    return await attempt()
            except TransientError as error:
                failures += 1
                await self._pause(error, failures)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise TransientError(
                    f"not done within {self._seconds:g} seconds; what is spoken so far is kept, the next attempt goes "
                    f"on from there"
                ) from None

    async def _wait_for_turn(self) -> None:
        while (wait := self._not_before - self._clock()) > 0:  # noqa: ASYNC110 - it may have grown meanwhile
            await asyncio.sleep(wait)

    async def _pause(self, error: TransientError, failures: int) -> None:
        asked = error.retry_after or 0.0
        delay = max(_jittered(self._first_delay * 2.0 ** (failures - 1)), asked)
        hopeless = delay > LONGEST_WAIT or self._clock() + delay > self._end
        if self._stopped or failures >= self._attempts or hopeless:
            raise error
        if asked:
            self.hold(asked)
        self._on_failure(error, delay)
        await asyncio.sleep(delay)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by the headers `retry-after-ms` or `Retry-After`; None if it does not."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        moment = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def _jittered(delay: float) -> float:
    return min(delay, LONGEST_WAIT) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret depends on it
