"""Keeps looking through the inbox and takes what has settled: the daemon's loop around `atenea.inbox`."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable

import structlog

from atenea.config import Config
from atenea.inbox.hints import Hints
from atenea.inbox.late import rest_folder
from atenea.inbox.scan import Candidate, Scanner, ScanResult
from atenea.inbox.taking import Taker
from atenea.ledger import Ledger
from atenea.presets import make_folders
from atenea.pulse import Pulse
from atenea.threads import in_thread

log = structlog.get_logger()

_MOST_BUSY = 0.2
"""The share of time that scans may take, however fast events come in."""

_AT_ONCE = 256
"""How many jobs are taken with one commit."""


class InboxKeeper:
    """Watches one inbox.

    Args:
        on_look: called after each look through it that changed something.
        pulse: told when the next look is due.
    """

    def __init__(self, config: Config, ledger: Ledger, on_look: Callable[[], None], pulse: Pulse) -> None:
        self._ledger = ledger
        self._pulse = pulse
        self._on_look = on_look
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._set_up(config)
        self._wanted = config
        self._scan_seconds = 0.0
        self.empty = False
        """Whether the last look found nothing that is or may become a job."""

    def _set_up(self, config: Config) -> None:
        self._config = config
        presets = frozenset(config.presets)
        make_folders(config.paths.inbox, presets, report=log.warning)
        self._scanner = Scanner(
            config.paths.inbox,
            presets,
            config.watch.settle_seconds,
            report=log.warning,
            assets=config.paths.assets,
            wait_for_files_seconds=config.limits.wait_for_files_seconds,
        )
        self._taker = Taker(config.paths.inbox, config.paths.state, presets, self._ledger, report=log.warning)
        polling = config.watch.polling
        self._hints = Hints(config.paths.inbox, presets, self._on_change, polling=polling, report=log.warning)

    def recover(self) -> None:
        """Finish or undo what a crash cut short; before the first look."""
        for row in self._taker.recover():
            # Of a job that the ledger had lost, what was copied may still be put away in the inbox.
            if rest_folder(self._config.paths.inbox, row.job_id).exists():
                self._ledger.copy_begun(row.job_id)

    def look(self) -> None:
        """Look through the inbox now."""
        self._wake.set()

    def reload(self, config: Config) -> None:
        """Look as this configuration says from now on."""
        self._wanted = config
        self.look()

    async def run(self) -> None:
        """Until cancelled: look, take, and wait for an event, the next file that may have settled, or the rescan."""
        await in_thread(self._hints.start)
        try:
            while True:
                self._wake.clear()
                self._pulse.at_work("inbox")
                due = await in_thread(self._look_now)
                pause = self._scan_seconds * (1 / _MOST_BUSY - 1)
                self._pulse.due("inbox", max(due - time.monotonic(), pause))
                await asyncio.sleep(pause)
                await self._wait(due - time.monotonic())
        finally:
            await in_thread(self._hints.stop)

    def _look_now(self) -> float:
        """Scan and take once; when to look again at the latest."""
        taken, before = 0, self.empty
        rescan = time.monotonic() + self._config.watch.rescan_seconds
        try:
            if self._wanted is not self._config:
                self._start_over(self._wanted)
            self._hints.refresh()
            found = self._scan()
            self.empty = not found.pending and not found.settled
            for start in range(0, max(len(found.settled), 1), _AT_ONCE):
                taken += self._take(found.settled[start : start + _AT_ONCE])
        except (OSError, sqlite3.Error) as error:
            log.error("jobs cannot be taken now; it is tried again", error=str(error))
            return rescan
        self.empty = not found.pending and taken == len(found.settled)
        if taken or self.empty != before:
            self._loop.call_soon_threadsafe(self._on_look)
        return rescan if found.next_due is None else min(rescan, found.next_due)

    def _scan(self) -> ScanResult:
        began = time.monotonic()
        found = self._scanner.scan()
        self._scan_seconds = time.monotonic() - began
        return found

    def _take(self, settled: list[Candidate]) -> int:
        rows = self._taker.take(settled)
        for row in rows:
            log.info("job taken", job=row.job_id, name=row.name, file=row.relative)
        if rows:
            self._loop.call_soon_threadsafe(self._on_look)  # the first of many need not wait for the last
        return len(rows)

    def _start_over(self, config: Config) -> None:
        self._hints.stop()
        self._set_up(config)
        self._taker.recover()
        self._hints.start()

    async def _wait(self, seconds: float) -> None:
        try:
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _on_change(self) -> None:
        if not self._wake.is_set():
            self._loop.call_soon_threadsafe(self._wake.set)
