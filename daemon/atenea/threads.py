"""File work in a thread, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """`asyncio.to_thread`, but a cancellation first lets the thread finish.

    A thread cannot be stopped, and nothing that it uses (the ledger above all) may be closed under it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():  # a second cancellation must not leave it behind either
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        raise
