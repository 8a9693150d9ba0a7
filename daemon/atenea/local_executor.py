"""Runs tasks in worker processes on this machine.

Workers are kept and used again, one pool for each set of needs, because starting Python and loading a model takes
long. A task never shares its worker. Whatever a plugin does to its process, the task's outcome says it and the
executor goes on.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from atenea.config import Config
from atenea.credentials import SECRETS, hide_from_others, redact_all
from atenea.errors import BusyError, TransientError
from atenea.executor import Done, Executor, Failed, Outcome, ProgressCallback, Task
from atenea.worker_process import WorkerDiedError, WorkerProcess, clean
from atenea.worker_usage import UsageWatch, Watched

_THE_DAEMONS_OWN = frozenset(
    {
        "CREDENTIALS_DIRECTORY",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)
"""Variables that systemd means for the daemon alone."""

_OLD_WORKERS_SECONDS = 15.0
_KEEP_LOADED_SECONDS = 600.0
"""What `keep_loaded_seconds` is where the configuration does not say it."""

_LAST_EVENTS = frozenset({"done", "failed", "cancelled"})


async def catalogue(executor: Executor) -> list[dict[str, Any]]:
    """What `PluginInfo` says about each plugin, as JSON values; see `PluginManager.load_all`.

    Raises:
        TransientError: no worker can be started.
    """
    task = Task(kind="catalogue", needs=frozenset({"intake"}))
    outcome = await executor.run(task, lambda _fraction, _text: None)
    if isinstance(outcome, Failed):
        raise TransientError(f"the plugins cannot be listed: {outcome.error}")
    plugins: list[dict[str, Any]] = outcome.result["plugins"]
    return plugins


class LocalExecutor:
    """An `Executor` with worker processes. Use it within one event loop, and `close` it there.

    Args:
        secrets: environment variables for workers that need the network; the others do not see them, and none of them
            can look into this process.
        lock_file: locked as long as this executor or one of its workers lives; see `start`.
        import_seconds: a plugin whose import takes longer is not imported again.
    """

    def __init__(
        self,
        config: Config,
        secrets: Mapping[str, str] | None = None,
        lock_file: Path | None = None,
        *,
        import_seconds: float = 30.0,
        log: FilteringBoundLogger | None = None,
    ) -> None:
        self._config = config
        self._secrets = dict(secrets or {})
        if self._secrets:
            hide_from_others()
        self._lock_file = lock_file
        self._lock: int | None = None
        self._import_seconds = import_seconds
        self._log: FilteringBoundLogger = log or structlog.get_logger()
        self._blocked: dict[str, str] = {}
        self._used: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._started_with: dict[WorkerProcess, tuple[frozenset[str], Config]] = {}
        self._idle: dict[WorkerProcess, asyncio.TimerHandle | None] = {}
        self._usage = UsageWatch(lambda: self._config.limits)
        self._start_fault = ""
        self._starting: set[asyncio.Task[WorkerProcess]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def capacity(self) -> dict[str, int]:
        """How many tasks with each need can run at once."""
        workers = self._config.workers
        return {"intake": 1, "cpu": workers.cpu, "network": workers.network, "gpu": workers.gpu}

    async def start(self) -> None:
        """Wait until the workers of an earlier daemon are gone: two must not work in one job's folder.

        Raises:
            BusyError: they do not go.
        """
        if self._lock_file is None or self._lock is not None:
            return
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            await _lock(descriptor, self._lock_file)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    async def run(self, task: Task, on_progress: ProgressCallback) -> Outcome:
        """Run the task to its end; tasks beyond the capacity wait."""
        missing = sorted(need for need in task.needs if self.capacity.get(need, 0) < 1)
        if missing:
            return Failed(f"{_subject(task)} needs {missing[0]!r}, which no worker of this executor has")
        async with self._slot(task.needs):
            if task.kind == "catalogue":
                return await self._catalogue(task)
            return self._redacted(
                await self._run_once(task, lambda fraction, text: on_progress(fraction, self._clean(text)))
            )

    def reload(self, config: Config) -> None:
        """Start workers with this configuration from now on; those at work finish their task and are replaced."""
        self._config = config
        self._blocked = {}
        self._freed.set()
        for worker in list(self._idle):
            self._discard(worker)

    def keep_idle_seconds(self, needs: frozenset[str]) -> float | None:
        """How long a worker is kept without work; None: until the end.

        A worker with the GPU may hold a loaded model. It is kept for the longest `keep_loaded_seconds` that the
        configuration gives to a render plugin.
        """
        return _keep_loaded_seconds(self._config) if "gpu" in needs else self._config.workers.idle_seconds

    async def close(self) -> None:
        """End every worker, and wait until all are gone. Tasks that still run fail, to be tried again."""
        self._closed = True
        while self._starting or self._started_with or self._ending:
            for start in self._starting:
                start.cancel()
            for worker in list(self._started_with):
                self._discard(worker)
            await asyncio.wait({*self._starting, *self._ending})
        await self._usage.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @asynccontextmanager
    async def _slot(self, needs: frozenset[str]) -> AsyncIterator[None]:
        while any(self._used[need] >= self.capacity.get(need, 0) for need in needs):
            self._freed.clear()
            await self._freed.wait()
        self._used.update(needs)
        try:
            yield
        finally:
            self._used.subtract(needs)
            self._freed.set()

    async def _catalogue(self, task: Task) -> Outcome:
        """Start over without the plugin whose import hangs or kills the worker, until all are listed."""
        while True:
            loading: list[str] = []
            outcome = await self._run_once(task, _ignore, on_loading=loading.append)
            if isinstance(outcome, Done) or not outcome.worker_died or not loading:
                return outcome
            how = outcome.error.removeprefix(_worker_of(task))
            self._log.error("a plugin is not loaded", plugin=loading[-1], reason=f"its import: the worker{how}")
            self._blocked[loading[-1]] = f"the worker that imported it{how}"

    async def _run_once(
        self,
        task: Task,
        on_progress: ProgressCallback,
        *,
        on_loading: Callable[[str], None] = lambda _name: None,
    ) -> Outcome:
        try:
            worker = await self._worker(task.needs)
        except (OSError, WorkerDiedError) as error:
            return self._not_started(task, error)
        worker.assign(**_log_fields(task))
        workdir = Path(task.folder, task.workdir) if task.workdir else None
        with self._usage.over(worker, workdir) as watched:
            try:
                outcome = await self._converse(worker, task, on_progress, on_loading)
            except asyncio.CancelledError:
                await self._cancel(worker)
                raise
            except TimeoutError:
                how = f"said nothing for {self._silence_seconds(task):g} s and was ended"
                return await self._ended(watched, task, how)
            except WorkerDiedError as error:
                return await self._ended(watched, task, str(error))
            except BaseException:
                self._discard(worker)
                raise
            else:
                await worker.drained()
                return outcome
            finally:
                self._put_back(worker)

    async def _converse(
        self,
        worker: WorkerProcess,
        task: Task,
        on_progress: ProgressCallback,
        on_loading: Callable[[str], None],
    ) -> Outcome:
        await worker.send({"task": {**asdict(task), "needs": sorted(task.needs)}})
        while True:
            event = await worker.receive(self._silence_seconds(task))
            match event:
                case {"event": "progress", "fraction": int() | float() as fraction, "text": str(text)}:
                    on_progress(min(max(0.0, fraction), 1.0), clean(text))
                case {"event": "loading", "plugin": str(name)}:
                    on_loading(name)
                case {"event": "done", "result": dict(result)}:
                    return Done(result)
                case {"event": "failed", "error": str()}:
                    return self._failed(worker, event)
                case {"event": "cancelled"}:
                    return Failed(f"{_subject(task)} raised Cancelled, but nobody cancelled it")
                case _:
                    raise WorkerDiedError("sent a message that means nothing and was ended")

    def _failed(self, worker: WorkerProcess, event: Mapping[str, Any]) -> Failed:
        if event.get("poisoned"):
            self._discard(worker)
        retry_after = event.get("retry_after")
        return Failed(
            clean(event["error"]),
            clean(str(event.get("details") or "")),
            transient=event.get("transient") is True,
            retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        )

    async def _cancel(self, worker: WorkerProcess) -> None:
        """Let the task stop by itself, for a while; being cancelled once more ends it at once."""
        try:
            await worker.send({"cancel": True})
            async with asyncio.timeout(self._config.workers.cancel_seconds):
                while (await worker.receive(None))["event"] not in _LAST_EVENTS:
                    pass
            await worker.drained()
        except (TimeoutError, WorkerDiedError):
            await asyncio.shield(self._discard(worker))
        except BaseException:
            self._discard(worker)
            raise

    async def _ended(self, watched: Watched, task: Task, how: str) -> Failed:
        worker = watched.worker
        await asyncio.shield(self._discard(worker))  # its last words are read then
        if self._closed:
            return Failed(f"{_subject(task)} was stopped together with atenea", transient=True)
        error = f"{_worker_of(task)} {watched.excess or how}"
        return Failed(error, worker.last_output, transient=not watched.lasting, worker_died=True)

    def _not_started(self, task: Task, error: Exception) -> Failed:
        if self._closed:
            return Failed(f"{_subject(task)} was stopped together with atenea", transient=True)
        reason = error.strerror or error if isinstance(error, OSError) else f"it {error}"
        details = "\n".join(getattr(error, "__notes__", ()))
        if not self._start_fault:  # once, however often it is tried and by however many jobs
            self._start_fault = str(reason)
            self._log.error("no worker can be started; it is tried again", error=self._start_fault, details=details)
        sentence = f"{_worker_of(task)} cannot be started: {reason}"
        return Failed(sentence, details, transient=True, not_begun=True)

    async def _worker(self, needs: frozenset[str]) -> WorkerProcess:
        """An idle worker that was started for the same needs, or a new one."""
        for worker in reversed(self._idle):
            if self._started_with[worker][0] == needs:
                self._take(worker)
                return worker
        if "gpu" in needs:
            await self._free_gpu()
        start = asyncio.create_task(self._start(needs, self._config))
        self._starting.add(start)
        start.add_done_callback(self._starting.discard)
        try:
            return await start
        except asyncio.CancelledError:
            if start.done() and not start.cancelled() and not start.exception():
                self._put_back(start.result())  # it became ready just before the cancellation
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise WorkerDiedError("was ended by `close`") from None

    async def _start(self, needs: frozenset[str], config: Config) -> WorkerProcess:
        if self._closed:
            raise WorkerDiedError("was ended by `close`")
        inherit = () if self._lock is None else (self._lock,)
        # Not in the worker's environment from its start, which other processes of the same user can read.
        secrets = self._secrets if "network" in needs else {}
        setup = {"config": config.model_dump_json(), "blocked": self._blocked, "secrets": secrets}
        worker = await WorkerProcess.start(setup, env=self._environment(), inherit=inherit, log=self._log)
        if self._start_fault:
            self._start_fault = ""
            self._log.info("workers can be started again")
        self._started_with[worker] = needs, config
        worker.exited.add_done_callback(lambda _task: self._on_exit(worker))
        return worker

    def _environment(self) -> dict[str, str]:
        hidden = _THE_DAEMONS_OWN | {*SECRETS, *self._secrets}
        return {name: value for name, value in os.environ.items() if name not in hidden}

    async def _free_gpu(self) -> None:
        """End idle workers that may hold memory of the card, and wait until it is free."""
        for worker in list(self._idle):
            if "gpu" in self._started_with[worker][0]:
                self._discard(worker)
        if self._ending:
            await asyncio.wait(self._ending)

    def _take(self, worker: WorkerProcess) -> None:
        timer = self._idle.pop(worker)
        if timer:
            timer.cancel()

    def _put_back(self, worker: WorkerProcess) -> None:
        if worker not in self._started_with:
            return
        needs, config = self._started_with[worker]
        if self._closed or config is not self._config or not worker.alive:
            self._discard(worker)
            return
        worker.assign()
        seconds = self.keep_idle_seconds(needs)
        loop = asyncio.get_running_loop()
        self._idle[worker] = None if seconds is None else loop.call_later(seconds, self._discard, worker)

    def _discard(self, worker: WorkerProcess) -> asyncio.Task[None]:
        """Kill the worker now; the task ends when it is gone."""
        self._started_with.pop(worker, None)
        if worker in self._idle:
            self._take(worker)
        worker.kill()
        ending = asyncio.create_task(worker.gone())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    def _on_exit(self, worker: WorkerProcess) -> None:
        if worker in self._idle:
            self._log.warning("an idle worker ended by itself", pid=worker.pid)
            self._discard(worker)

    def _silence_seconds(self, task: Task) -> float:
        if task.kind == "diagnosis":
            return math.inf  # whoever asks for it sets a time limit to all of it
        if task.kind == "intake":  # which imports plugins, and copies files that may be large
            return min(4 * self._import_seconds, self._config.limits.silence_seconds)
        imports = task.kind in {"catalogue", "configuration"}
        return self._import_seconds if imports else self._config.limits.silence_seconds

    def _redacted(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Done):
            return Done(self._clean(outcome.result))
        return replace(outcome, error=self._clean(outcome.error), details=self._clean(outcome.details))

    def _clean(self, value: Any) -> Any:
        """A JSON value without secrets."""
        return redact_all(value, [secret for secret in self._secrets.values() if secret])


async def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _OLD_WORKERS_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BusyError(
                    f"workers of an earlier atenea still run and hold {path}; end them: fuser {path}"
                ) from None
            await asyncio.sleep(0.05)
        else:
            return


def _keep_loaded_seconds(config: Config) -> float:
    tables = (config.render.model_extra or {}).values()
    # Whether it is a number of seconds is checked by the plugin, in a worker, which is started before.
    given = [table.get("keep_loaded_seconds") for table in tables]
    seconds = [value for value in given if isinstance(value, int | float) and 0 <= value < math.inf]
    return float(max(seconds, default=_KEEP_LOADED_SECONDS))


def _subject(task: Task) -> str:
    names = {
        "catalogue": "the list of plugins",
        "configuration": "the check of the configuration",
        "diagnosis": f"the diagnosis of plugin {task.plugin!r}",
        "intake": "the intake",
        "mux": "the step that adds the speech",
    }
    return names.get(task.kind) or f"{task.stage} plugin {task.plugin!r}"


def _worker_of(task: Task) -> str:
    return f"the worker of {_subject(task)}"


def _log_fields(task: Task) -> dict[str, str]:
    fields = {"job": task.job_id, "stage": task.stage or task.kind, "plugin": task.plugin}
    return {name: value for name, value in fields.items() if value}


def _ignore(_fraction: float, _text: str) -> None:
    """Progress that nobody asked for."""
