"""Looks at taken jobs again: whether their uploads go on, before anything paid or slow is made of a part."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from atenea.config import Config
from atenea.inbox.late import REST, bring_picture, bring_rest, opened_rest, rest_folder
from atenea.inbox.readings import NOTHING, fingerprint
from atenea.inbox.scan import EMPTY_PATIENCE
from atenea.inbox.taking import COPY
from atenea.inbox.writers import is_written
from atenea.ledger import Ledger
from atenea.rows import JobRow
from atenea.threads import in_thread

log = structlog.get_logger()

_LEAST_PAUSE = 0.1
"""Between two looks at a file, however small `settle_seconds` is."""


class Arrivals:
    """The late side of the inbox: what was taken, and may not be all."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config = config
        self._ledger = ledger
        self._held: set[str] = set()
        self._looking = asyncio.Lock()

    @property
    def pause(self) -> float:
        """Seconds between two looks at a file that is still being written."""
        return max(self.config.watch.settle_seconds, _LEAST_PAUSE)

    async def go_on(self, job: JobRow, *, is_read: bool) -> bool:
        """Whether the upload goes on after its file was taken; then the job waits until it settles, and starts over.

        Once the job is read, it also waits for whoever has a file still open for writing.
        """
        if (self.config.jobs / job.id / COPY).exists():  # its row is committed, and next it gets its name
            self._ledger.start_over(job, fingerprint=job.fingerprint, until=time.time() + self.pause)
            return True
        now, is_held = await self._look(job)
        if now == NOTHING:
            self._give_up_lost(job)
            return True
        if now == job.fingerprint and not (is_held and is_read):
            if is_read:
                self._held.discard(job.id)
            return False
        self._ledger.start_over(job, fingerprint=now, until=time.time() + self.pause)
        if now != job.fingerprint:
            log.warning("the file changed after it was taken; the job starts over", job=job.id, name=job.name)
        else:
            self._tell_held(job)
        return True

    async def has_more(self, job: JobRow) -> bool:
        """Whether what is wrong with a job may be that not all of it has come."""
        now, is_held = await self._look(job)
        if now == job.fingerprint and not is_held:
            return False
        if is_held:
            self._tell_held(job)
        return True

    async def revive(self, job: JobRow) -> bool:
        """Whether more of a refused job's files has come since; then the job is tried again."""
        now, _ = await self._look(job)
        if now in {NOTHING, job.fingerprint}:
            return False
        self._ledger.retry(job)
        log.warning("the file changed after it was refused; the job is tried again", job=job.id, name=job.name)
        return True

    async def _look(self, job: JobRow) -> tuple[str, bool]:
        async with self._looking:  # not in the threads: one that waits for another looks like one that hangs
            return await in_thread(self._look_now, job)

    def _look_now(self, job: JobRow) -> tuple[str, bool]:
        """The original's fingerprint, with all that came late, and whether somebody still writes it."""
        inbox, folder = self.config.paths.inbox, self.config.jobs / job.id
        original = folder / "original"
        arrived_before = job.created + EMPTY_PATIENCE * self.config.watch.settle_seconds

        def before_copy() -> Path:
            self._ledger.copy_begun(job.id)
            return rest_folder(inbox, job.id)

        patience = self.config.limits.wait_for_files_seconds
        with REST:
            try:
                bring_picture(inbox, original, job.relative, arrived_before=arrived_before, before_copy=before_copy)
                with opened_rest(rest_folder(inbox, job.id)) as rest:
                    if rest:
                        bring_rest(rest, original, job.relative)
                    is_held = is_written(rest or original, job.relative, patience=patience) is True
                return fingerprint(original, job.relative), is_held
            except (FileNotFoundError, NotADirectoryError):
                return NOTHING, False

    def _tell_held(self, job: JobRow) -> None:
        if job.id not in self._held:
            self._held.add(job.id)
            log.info("somebody still has the file open for writing; the job waits", job=job.id, name=job.name)

    def _give_up_lost(self, job: JobRow) -> None:
        attempt = self._ledger.begin(job, self._ledger.steps(job.id)[0])
        folder = self.config.jobs / job.id
        self._ledger.give_up(attempt, job, error=f"{folder}: somebody removed the original", details="", died=False)
