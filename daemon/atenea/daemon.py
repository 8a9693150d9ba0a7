"""The daemon: takes jobs, starts their steps as there is room for them, and answers the commands.

Everything is decided in one thread, by what the ledger says; a few loops wake each other. Slow file work is done in
threads, everything else in worker processes.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from atenea import durable
from atenea.access import WRITE, closed_caches, let_in, refusal
from atenea.arrivals import Arrivals
from atenea.clock import ClockWatch
from atenea.config import Config, load_config
from atenea.control import ControlServer
from atenea.errors import AteneaError, ConfigError, ExitCode, UsageError
from atenea.estimate import forecast_of
from atenea.executor import Failed, Task
from atenea.inbox_keeper import InboxKeeper
from atenea.ledger_file import LEDGER, DamagedError, LockedError
from atenea.ledger_mending import open_ledger
from atenea.local_executor import LocalExecutor
from atenea.memory import give_back
from atenea.progress import Progress
from atenea.progress_files import ProgressFiles
from atenea.publisher import Publisher
from atenea.pulse import Pulse
from atenea.queue_desk import QueueDesk
from atenea.rests import Rests
from atenea.retention import clean_up, doubt_ages, is_far, was_long_away
from atenea.rows import JobRow, StepRow, join_needs
from atenea.scheduler import choose, free_slots
from atenea.service import Service
from atenea.state_lock import StateLock
from atenea.status_line import status_line
from atenea.step_runner import NotBegunError, StepRunner
from atenea.threads import in_thread

log = structlog.get_logger()

_UNPAUSED = frozenset({"intake", "publish"})
"""Steps that go on while the queue is paused: mistakes are answered, and what is finished appears."""

_FIXED_PATHS = ("inbox", "outbox", "state")
"""What a running daemon cannot move."""

Result = TypeVar("Result")

_MOST_MENDED = 3
"""How often one daemon mends its ledger: a disk that damages it again and again is no place for it."""

_LOCKED_SECONDS = 1.0
"""Between two attempts to open a ledger that another program has locked."""

_COMMAND_SECONDS = 1.0
"""How long a start waits for a command that changes the queue because it found no daemon."""

_CLEAN_UP_SECONDS = 60.0
_NAP_SECONDS = 60.0
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
"""How long the end may take beyond the time in which stages may stop by themselves."""


class Daemon:
    """One instance, from start to end.

    Args:
        once: end when the inbox is empty and every job is finished.
        on_published: called with each video that appears in the outbox.
        on_progress: called when a step gets on.
    """

    def __init__(
        self,
        config: Config,
        secrets: dict[str, str],
        *,
        once: bool = False,
        on_published: Callable[[Path], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._once = once
        self._on_published = on_published
        self._on_progress = on_progress
        self._loops: list[asyncio.Task[Any]] = []
        self._steps: dict[str, tuple[asyncio.Task[None], frozenset[str], Progress]] = {}
        self._cancelled: set[str] = set()
        self._rests = Rests()
        self._began = time.time()

    async def run(self) -> ExitCode:
        """Work until told to stop, or until all is done if `once`.

        Raises:
            BusyError: the state folder is in use.
            UsageError: a folder cannot be made, or the outbox not be read and written.
            ConfigError: a configured plugin or option is wrong.
            AteneaError: the ledger cannot be opened.
        """
        paths = self._config.paths
        for folder in (paths.inbox, paths.outbox, self._config.jobs, paths.cache, paths.assets):
            _make_folder(folder)
        for folder in closed_caches(paths.cache):
            sentence = f"{refusal(folder, WRITE)}; {let_in('cache')}"
            log.warning("a cache cannot be written; jobs do without it, or fail", error=sentence)
        self._service = Service()
        with StateLock(paths.state, patience=_COMMAND_SECONDS):
            return await self._run_mending()

    async def _run_mending(self) -> ExitCode:
        """Start anew with a mended ledger whenever the one that is open turns out to be damaged."""
        state = self._config.paths.state
        self._stopping = asyncio.Event()  # one for all starts: the signals come while it is mended, too
        for _ in range(_MOST_MENDED):
            self._ledger = await self._unlocked(partial(open_ledger, state))
            with suppress(DamagedError), closing(self._ledger):
                if self._stopping.is_set():
                    log.info("stopped")
                    return ExitCode.DONE
                code = await self._run_locked()
                if not self._ledger.damaged:
                    return code
            if self._stopping.is_set():
                break
            log.error("the ledger is damaged; all goes on as soon as it is mended", file=str(state / LEDGER))
        else:
            raise AteneaError(
                f"{state / LEDGER}: was damaged {_MOST_MENDED} times; look at the disk, and at what else writes there"
            )
        return ExitCode.FAILED

    async def _unlocked(self, work: Callable[[], Result]) -> Result:
        """Do file work as soon as no other program has locked the ledger."""
        told = False
        while True:
            async with self._service.patient(_START_SECONDS):
                try:
                    return await in_thread(work)
                except LockedError as error:
                    if self._stopping.is_set():
                        raise
                    if not told:
                        log.warning("the start waits for another program", error=str(error))
                        self._service.status("waits: another program has locked the ledger")
                        told = True
                await asyncio.sleep(_LOCKED_SECONDS)

    async def _run_locked(self) -> ExitCode:
        paths = self._config.paths
        self._wake = asyncio.Event()
        self._checked = asyncio.Event()
        self._reloading = asyncio.Event()
        self._clock = ClockWatch()
        self._damaged = asyncio.Event()
        self._ledger.on_damage = partial(asyncio.get_running_loop().call_soon_threadsafe, self._damaged.set)
        self._pulse = Pulse()
        self._executor = LocalExecutor(self._config, self._secrets, paths.state / "workers.lock")
        self._arrivals = Arrivals(self._config, self._ledger)
        self._runner = StepRunner(self._config, self._ledger, self._executor, self._arrivals)
        self._inbox = InboxKeeper(self._config, self._ledger, on_look=self._wake.set, pulse=self._pulse)
        self._progress_files = ProgressFiles(self._config, self._ledger)
        self._desk = QueueDesk(self._config, self._ledger, self)
        control = ControlServer(paths.state, self._desk)
        try:
            async with self._service.patient(_START_SECONDS):
                await self._unlocked(self._take_over)
                await self._executor.start()
                await self._unlocked(self._recover)
                await control.start()
            self._handle_signals()
            self._service.ready()
            log.info(
                "ready", inbox=str(paths.inbox), outbox=str(paths.outbox), config=str(self._config.file or "defaults")
            )
            if self._ledger.paused:
                log.warning("the queue is paused: no stage starts before `atenea resume`")
            await self._work()
        finally:
            if self._ledger.damaged and not self._stopping.is_set():
                self._service.status("the ledger is damaged; it is mended")
            else:
                self._service.stopping()
            async with self._service.patient(self._config.workers.cancel_seconds + _STOP_SECONDS):
                await control.stop()
                await self._park()
                await self._executor.close()
                self._progress_files.clear()
        log.info("stopped")
        return ExitCode.FAILED if self._once and self._ledger.failed_since(self._began) else ExitCode.DONE

    async def _check(self, config: Config, executor: LocalExecutor) -> None:
        """Check what the configuration, which the executor was made with, gives to plugins."""
        task = Task(kind="configuration", needs=frozenset({"intake"}))
        outcome = await executor.run(task, lambda _fraction, _text: None)
        if isinstance(outcome, Failed):
            log.error("the configured plugins could not be checked", error=outcome.error)
            return
        if outcome.result["mistakes"]:
            raise ConfigError(str(config.file or "configuration"), outcome.result["mistakes"])
        for sentence in outcome.result["broken"]:
            log.error("a configured plugin is broken; jobs that use it will fail", error=sentence)
        for sentence in outcome.result["files"]:
            log.warning("a preset's file cannot be used; jobs that need it will fail", error=sentence)

    def _take_over(self) -> None:
        """Enter that nothing runs of what a daemon that is gone had begun."""
        self._follow_clock(-self._ledger.clock_is_behind())
        if was_long_away(self._ledger):
            doubt_ages(self._ledger)
        self._ledger.cut_short()
        self._cancelled.update(self._ledger.cancelling())
        self._finish_cancelling()

    def _recover(self) -> None:
        outbox = self._config.paths.outbox
        try:
            Publisher(outbox, self._ledger).tidy()
            self._progress_files.tidy()
        except OSError as error:
            sentence = f"{outbox}: cannot be tidied: {error.strerror}; see [paths] in the configuration"
            raise UsageError(sentence) from None
        self._inbox.recover()

    async def _work(self) -> None:
        work = (
            self._inbox.run,
            self._schedule,
            self._look_for_late,
            self._keep_house,
            self._tell,
            self._keep_configured,
        )
        self._loops = [asyncio.create_task(loop()) for loop in (self._stopping.wait, self._damaged.wait, *work)]
        finished, _ = await asyncio.wait(self._loops, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            task.result()  # a loop that broke ends the daemon, with its traceback

    # Scheduling

    async def _schedule(self) -> None:
        await self._checked.wait()
        while not self._all_done():
            self._wake.clear()
            self._pulse.due("schedule", _NAP_SECONDS)
            try:
                self._notice_clock()
            except sqlite3.Error as error:  # the next look notices it again
                log.error("the clock was set, which cannot be noted now; it is tried again", error=str(error))
            self._finish_cancelling()
            for job in self._choose():
                self._start(job)
            await self._wait()

    def _choose(self) -> list[JobRow]:
        now = time.time()
        capacity = {**self._executor.capacity, "publish": 1}
        free = free_slots(capacity, (needs for _, needs, _ in self._steps.values()))
        paused = self._ledger.paused
        ready = []
        for needs in self._ledger.wanted_needs():
            room = min(free.get(need, 0) for need in needs.split(","))
            waits = (paused and needs not in _UNPAUSED) or self._rests.reason(needs)
            if room > 0 and not waits:
                others = len(self._steps) + len(self._rests) + len(self._cancelled)
                ready += self._ledger.ready(needs, now, room + others)
        return choose((job for job in ready if self._may_start(job)), free)

    def _may_start(self, job: JobRow) -> bool:
        return not (job.id in self._steps or job.id in self._cancelled or self._rests.reason(job.id))

    def _notice_clock(self) -> None:
        seconds = self._clock.set_by()
        self._follow_clock(seconds)
        self._clock.follow(seconds)

    def _follow_clock(self, seconds: float) -> None:
        """Without this a job would wait for as long as the clock was set back, or be removed as years old."""
        if is_far(seconds):
            doubt_ages(self._ledger)
            log.warning("the clock was set far; for a day nothing that is finished is removed for its age")
        if seconds:
            self._ledger.follow_clock(seconds)
            log.warning("the clock was set; what waits for a time waits as long as before", seconds=round(seconds, 1))

    def _start(self, job: JobRow) -> None:
        step = self._ledger.steps(job.id)[job.position]
        progress = Progress.of(step, forecast_of(self._ledger, job.id) if step.stage == "render" else None)
        task = asyncio.create_task(self._carry_out(job, step, progress))
        self._steps[job.id] = (task, step.needs, progress)
        # Not in the task: one that is cancelled before its first line never comes to its `finally`.
        task.add_done_callback(lambda _: self._ended(job.id))

    async def _carry_out(self, job: JobRow, step: StepRow, progress: Progress) -> None:
        def on_progress(fraction: float, text: str) -> None:
            progress.update(fraction, text)
            if self._on_progress:
                self._on_progress(progress)

        try:
            published = await self._runner.run(job, step, on_progress)
            for rested in (job.id, join_needs(step.needs)):
                self._rests.over(rested)
            if self._on_published and ".mp4" in published:
                self._on_published(published[".mp4"])
        except asyncio.CancelledError:
            if job.id not in self._cancelled:
                raise
            await self._runner.relieve_disk(job, step)
        except NotBegunError as error:  # the executor tells it, once for all jobs
            for resting in (job.id, join_needs(step.needs)):
                self._rests.begin(resting, str(error))
        except Exception as error:  # whatever is wrong with one job, the others go on
            self._rests.begin(job.id, str(error))
            surprise = not isinstance(error, OSError | sqlite3.Error)
            facts = {"job": job.id, "name": job.name, "error": str(error)}
            log.error("the job cannot go on now; it is tried again", **facts, exc_info=surprise)

    def _ended(self, job_id: str) -> None:
        """The job's step runs no more."""
        del self._steps[job_id]
        self._wake.set()
        self._finish_cancelling()

    def _finish_cancelling(self) -> None:
        """Cancel the jobs whose steps were stopped, also if one had come to its end by itself just before."""
        for job_id in self._cancelled - self._steps.keys():
            try:
                job = self._ledger.job(job_id)
                if job and not job.is_final:
                    if self._rests.reason(job_id):
                        continue
                    self._ledger.cancel(job)
                    log.info("job cancelled", job=job.id, name=job.name)
            except (OSError, sqlite3.Error) as error:
                log.error("the job cannot be cancelled now; it is tried again", job=job_id, error=str(error))
                self._rests.begin(job_id, str(error))
            else:
                self._cancelled.discard(job_id)
                self._rests.over(job_id)

    async def _wait(self) -> None:
        now = time.time()
        rest = self._rests.next_end()
        waits = [] if rest is None else [rest]
        if due := self._ledger.next_due(now):
            waits.append(due - now)
        # In bounded naps, because no timer tells that the clock was set.
        seconds = min([max(wait, 0.01) for wait in waits], default=_NAP_SECONDS)
        try:
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
            async with asyncio.timeout(min(seconds, _NAP_SECONDS)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _all_done(self) -> bool:
        return self._once and self._inbox.empty and not self._steps and not self._ledger.counts()

    # What else goes on

    async def _look_for_late(self) -> None:
        """Try jobs again that were refused before all of their files had come."""
        while True:
            await asyncio.sleep(self._config.watch.rescan_seconds)
            try:
                for job in self._ledger.refused_lately():
                    if await self._arrivals.revive(job):
                        self._wake.set()
            except (OSError, sqlite3.Error, AteneaError) as error:
                log.error("refused jobs cannot be looked at now; it is tried again", error=str(error))

    async def _keep_house(self) -> None:
        while True:
            try:
                now = time.time()
                self._notice_clock()  # after that look at it
                while await in_thread(clean_up, self._config, self._ledger, now):
                    pass
            except (OSError, sqlite3.Error) as error:
                log.error("cleaning up failed; it is tried again", error=str(error))
            await in_thread(give_back)
            await asyncio.sleep(_CLEAN_UP_SECONDS)

    async def _tell(self) -> None:
        while True:
            running = {job_id: progress for job_id, (_, _, progress) in self._steps.items()}
            self._progress_files.update(running)
            self._service.status(status_line(running, self._ledger))
            self._service.alive(self._pulse.standstill())
            await asyncio.sleep(self._service.interval)

    # What the commands want to know and have done

    def progress(self, job_id: str) -> Progress | None:
        """How far the job's running step is; None when no step of it runs."""
        return self._steps[job_id][2] if job_id in self._steps else None

    def trouble(self, job_id: str) -> str | None:
        """What keeps the daemon from going on with the job."""
        return self._rests.reason(job_id)

    def slots(self, need: str) -> int:
        """How many steps with this need run at once."""
        return self._executor.capacity.get(need, 0)

    def stop_step(self, job_id: str) -> None:
        """Cancel the job's running step, and then the job."""
        self._cancelled.add(job_id)
        self._steps[job_id][0].cancel()

    def wake(self) -> None:
        """Look at the inbox and the ledger now."""
        self._inbox.look()
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """What else `atenea jobs` says above its list."""
        return {"daemon": True}

    # Signals and the end

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)

    async def _keep_configured(self) -> None:
        """Check the configuration's options, which ends the daemon if they are wrong, and reload it when told to."""
        await self._check(self._config, self._executor)
        self._checked.set()
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            self._service.reloading()
            # Plugins are loaded anew, whatever the configuration says: a copy, so that busy workers are replaced too.
            self._executor.reload(self._config.model_copy())
            try:
                await self._reload(self._config)
            except (OSError, AteneaError) as error:
                log.error("the configuration is not reloaded", error=str(error))
            self._service.ready()

    async def _reload(self, old: Config) -> None:
        config = load_config(old.file) if old.file else old
        fixed = {name: getattr(old.paths, name) for name in _FIXED_PATHS}
        changed = [f"paths.{name}" for name, path in fixed.items() if getattr(config.paths, name) != path]
        if changed:
            log.warning("a changed path takes effect when atenea is started again", keys=changed)
        paths = config.paths.model_copy(update=fixed)
        config = config.model_copy(update={"paths": paths, "overrides": old.overrides})
        checker = LocalExecutor(config)
        try:
            await self._check(config, checker)
        finally:
            await checker.close()
        self._config = config
        for part in (self._arrivals, self._runner, self._desk, self._progress_files):
            part.config = config
        self._executor.reload(config)
        self._inbox.reload(config)
        self._wake.set()
        log.info("configuration reloaded", config=str(config.file or "defaults"))

    async def _park(self) -> None:
        """Take and start nothing more, and end what runs where it can go on at the next start."""
        tasks = [*self._loops, *(task for task, _, _ in self._steps.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _make_folder(folder: Path) -> None:
    try:
        durable.make_folders(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}; see [paths] in the configuration") from None
