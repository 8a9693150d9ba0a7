"""Keeps looking through the inbox and takes what has settled: the daemon's loop around `atenea.inbox`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable

import structlog

from atenea.config import Config
from atenea.inbox.hints import Hints
from atenea.inbox.scan import Scanner
from atenea.inbox.taking import Taker
from atenea.ledger import Ledger

log = structlog.get_logger()

_MOST_BUSY = 0.2
"""The share of time that scans may take, however fast events come in."""


class InboxKeeper:
    """Watches one inbox.

    Args:
        on_look: called after each look through it that changed something.
    """

    def __init__(self, config: Config, ledger: Ledger, on_look: Callable[[], None]) -> None:
        self._config = config
        self._on_look = on_look
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        presets = frozenset(config.presets)
        self._scanner = Scanner(config.paths.inbox, presets, config.watch.settle_seconds, report=log.warning)
        self._taker = Taker(config.paths.inbox, config.paths.state, presets, ledger, report=log.warning)
        self._hints = Hints(config.paths.inbox, presets, self._on_change, polling=config.watch.polling)
        self.empty = False
        """Whether the last look found nothing that is or may become a job."""

    def recover(self) -> None:
        """Finish or undo what a crash cut short; before the first look."""
        self._taker.recover()

    def look(self) -> None:
        """Look through the inbox now."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled: look, take, and wait for an event, the next file that may have settled, or the rescan."""
        await asyncio.to_thread(self._hints.start)
        try:
            while True:
                self._wake.clear()
                began = time.monotonic()
                before = self.empty
                taken, due = await asyncio.to_thread(self._look_now)
                if taken or self.empty != before:
                    self._on_look()
                spent = time.monotonic() - began
                await asyncio.sleep(spent * (1 / _MOST_BUSY - 1))
                await self._wait(due - time.monotonic())
        finally:
            await asyncio.to_thread(self._hints.stop)

    def _look_now(self) -> tuple[int, float]:
        """Scan and take once: how many were taken, and when to look again at the latest."""
        rescan = time.monotonic() + self._config.watch.rescan_seconds
        try:
            self._hints.refresh()
            found = self._scanner.scan()
            taken = self._taker.take(found.settled)
        except (OSError, sqlite3.Error) as error:
            log.error("jobs cannot be taken now; it is tried again", error=str(error))
            return 0, rescan
        self.empty = not found.pending and len(taken) == len(found.settled)
        for row in taken:
            log.info("job taken", job=row.job_id, name=row.name, file=row.relative)
        return len(taken), rescan if found.next_due is None else min(rescan, found.next_due)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), max(seconds, 0))
        except TimeoutError:
            pass

    def _on_change(self) -> None:
        if not self._wake.is_set():
            self._loop.call_soon_threadsafe(self._wake.set)
