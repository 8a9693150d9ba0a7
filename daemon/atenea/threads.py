"""File work in a thread, beside the event loop; and whether it gets on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_lock = threading.Lock()
_at_work: dict[int, tuple[float, float]] = {}
"""By the clock of each thread at work: how much processor time it has used, and since when no more."""


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """`asyncio.to_thread`, but a cancellation first lets the thread finish.

    A thread cannot be stopped, and nothing that it uses (the ledger above all) may be closed under it.
    """

    def watched() -> Result:
        with _at_work_here():
            return function(*args, **kwargs)

    work = asyncio.ensure_future(asyncio.to_thread(watched))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():  # a second cancellation must not leave it behind either
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise


def standstill() -> float | None:
    """For how many seconds the file work that has stood still the longest used no processor time; None without any.

    Work that gets on, however slowly, uses some for each system call; what hangs in one uses none.
    """
    now = time.monotonic()
    with _lock:
        for clock, (used, _) in _at_work.items():
            if (uses := time.clock_gettime(clock)) > used:
                _at_work[clock] = uses, now
        return max((now - since for _, since in _at_work.values()), default=None)


@contextmanager
def _at_work_here() -> Iterator[None]:
    clock = time.pthread_getcpuclockid(threading.get_ident())
    with _lock:
        _at_work[clock] = time.clock_gettime(clock), time.monotonic()
    try:
        yield
    finally:
        with _lock:
            del _at_work[clock]
