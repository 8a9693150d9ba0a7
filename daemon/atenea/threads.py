"""File work in a thread, beside the event loop; and whether it gets on."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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

    A thread cannot be stopped, and nothing that it uses (the ledger above all) may be closed under it. Where the system
    starts no new thread, one that is there does the work when it has time.
    """
    result: Future[Result] = Future()

    def watched() -> None:
        try:
            with _at_work_here():
                result.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - for who awaits it
            result.set_exception(error)

    try:
        asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, watched)
    except RuntimeError as error:
        # The work is queued all the same; `threading` has no better word for it.
        if str(error) != "can't start new thread" or not _others():
            raise
    work = asyncio.wrap_future(result)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():  # a second cancellation must not leave it behind either
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise


def _others() -> bool:
    """Whether the event loop's pool has a thread."""
    return any(thread.name.startswith("asyncio_") for thread in threading.enumerate())


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
