"""The daemon's side of one worker: starts the process, talks with it, reads what it prints, ends it and its children.

A worker leads a session of its own, so that everything that a plugin started is known by it, also what has a process
group of its own. What it sends is checked like a stranger's: a plugin can write to any descriptor.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from atenea.worker_link import LINE_LIMIT
from atenea.worker_output import LONGEST_LINE, THROTTLE_SECONDS, LineLimiter, Output

_START_SECONDS = 60.0
_GONE_SECONDS = 5.0
_TAIL_LINES = 50
_STATUS_BYTES = 1 << 14
_PROC = Path("/proc")
_RESERVED = frozenset(
    {"event", "level", "timestamp", "logger", "exc_info", "stack_info", "self", "method_name"}
    | {"job", "stage", "plugin", "pid"}
)
"""Names of fields that are the daemon's own, or arguments of structlog's methods."""

_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})


class WorkerDiedError(Exception):
    """The worker ended, or must be ended, before its task did; says how, for the end of a sentence about it."""


@dataclass(frozen=True)
class _Pipes:
    """Our ends of what a worker is connected with."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    output: Output


@asynccontextmanager
async def _pipes() -> AsyncIterator[tuple[_Pipes, socket.socket, int]]:
    """Our ends, and the worker's two, which are closed afterwards; ours too when something fails."""
    async with AsyncExitStack() as theirs, AsyncExitStack() as ours:
        connection, their_connection = socket.socketpair()
        theirs.callback(their_connection.close)
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT)
        ours.callback(writer.close)
        descriptor, their_output = os.pipe()
        theirs.callback(os.close, their_output)
        transport, output = await asyncio.get_running_loop().connect_read_pipe(Output, os.fdopen(descriptor, "rb", 0))
        ours.callback(transport.close)
        transport.pause_reading()
        yield _Pipes(reader, writer, output), their_connection, their_output
        ours.pop_all()


class WorkerProcess:
    """One worker process, in the middle of a task or idle. `start` makes one.

    Attributes:
        log: bound to the task that it works on; lines that come in between have the worker's number only.
        exited: done when the process has ended.
    """

    def __init__(self, process: asyncio.subprocess.Process, pipes: _Pipes, log: FilteringBoundLogger) -> None:
        self._process = process
        self._reader, self._writer = pipes.reader, pipes.writer
        self._base_log = self.log = log.bind(pid=process.pid)
        self._limiter = LineLimiter()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._killed = False
        self._status: int | None = None
        # Now: later a process that hides its secrets may be invisible to its own user too.
        with suppress(OSError):
            self._status = os.open(_PROC / str(process.pid) / "status", os.O_RDONLY | os.O_CLOEXEC)
        self._output = pipes.output
        self._output.give(self._print, lambda: self._limiter.dropped)
        self.exited = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        setup: Mapping[str, Any],
        *,
        env: Mapping[str, str],
        inherit: tuple[int, ...],
        log: FilteringBoundLogger,
    ) -> WorkerProcess:
        """Start a worker and wait until it takes tasks.

        Raises:
            OSError: the process or its pipes cannot be made.
            WorkerDiedError: it ended at once, or says nothing.
        """
        async with _pipes() as (pipes, theirs, their_output):
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "atenea.worker", str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=their_output,
                    stderr=their_output,
                    env=env,
                    pass_fds=(theirs.fileno(), *inherit),
                    start_new_session=True,
                )
            except RuntimeError as error:  # of the thread that would wait for its end; without us it ends by itself
                raise OSError(errno.EAGAIN, str(error)) from None
        worker = cls(process, pipes, log)
        try:
            await worker.send(setup)
            await worker._ready()
        except BaseException as error:
            worker.kill()
            await asyncio.shield(worker.gone())
            if isinstance(error, WorkerDiedError):
                error.add_note(worker.last_output)
            raise
        return worker

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group and session."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended, and is not about to."""
        return not self._killed and not self.exited.done()

    @property
    def last_output(self) -> str:
        """The last lines that it printed during its task."""
        return "\n".join(self._tail)

    def assign(self, **task: str) -> None:
        """From now on its lines belong to this task; none for an idle worker."""
        self.log = self._base_log.bind(**task)
        self._tail.clear()

    async def drained(self) -> None:
        """Wait until what it has printed is logged, before its lines belong to another task."""
        await self._output.drained()

    def status(self) -> str:
        """What /proc says about the process; nothing once it is gone."""
        if self._status is None:
            return ""
        try:
            return os.pread(self._status, _STATUS_BYTES, 0).decode(errors="replace")
        except OSError:
            return ""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a command.

        Raises:
            WorkerDiedError: it cannot be reached.
        """
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
        except OSError:
            raise WorkerDiedError(await self._ending()) from None

    async def receive(self, silence: float | None) -> dict[str, Any]:
        """The next event, other than a log line; those are logged.

        Raises:
            WorkerDiedError: it ended, or sent what is not an event.
            TimeoutError: nothing came for `silence` seconds, not even a log line.
        """
        while True:
            async with asyncio.timeout(silence):
                event = await self._event()
            if event["event"] != "log":
                return event
            await self._log_event(event)

    def kill(self) -> None:
        """End the process and everything in its session; `gone` waits for that."""
        self._killed = True
        with suppress(ProcessLookupError, PermissionError):  # all at once, also who hides from /proc
            os.killpg(self.pid, signal.SIGKILL)
        for process in _members(self.pid):
            _kill(process, self.pid)

    async def gone(self) -> None:
        """Wait until the killed process is reaped and its session is empty, and let go of its pipes."""
        await self._process.wait()
        await self._session_gone()
        await asyncio.wait([self._output.ended], timeout=1)
        self._output.close()
        self._writer.transport.abort()
        await asyncio.wait([self._output.ended, self.exited])
        if self._status is not None:
            os.close(self._status)
            self._status = None
        with suppress(OSError):
            await self._writer.wait_closed()
        self._report_dropped(at_end=True)

    async def _ready(self) -> None:
        try:
            event = await self.receive(_START_SECONDS)
        except TimeoutError:
            raise WorkerDiedError(f"said nothing for {_START_SECONDS:.0f} s after its start") from None
        if event["event"] != "ready":
            raise WorkerDiedError("sent an unexpected message after its start")

    async def _watch(self) -> None:
        """When the process ends by itself, its children end with it, and the socket can say no more."""
        await self._process.wait()
        self.kill()
        asyncio.get_running_loop().call_later(1, self._writer.transport.abort)

    async def _event(self) -> dict[str, Any]:
        try:
            line = await self._reader.readuntil(b"\n")
            event = json.loads(line)
        except (asyncio.IncompleteReadError, OSError):
            raise WorkerDiedError(await self._ending()) from None
        except asyncio.LimitOverrunError:
            raise WorkerDiedError(f"sent a line of more than {LINE_LIMIT:,} bytes and was ended") from None
        except (ValueError, RecursionError):
            raise WorkerDiedError("sent a line that is not JSON and was ended") from None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            raise WorkerDiedError("sent a line that is not an event and was ended")
        return event

    async def _ending(self) -> str:
        """How the process ended, once its socket is closed."""
        await asyncio.wait([self.exited], timeout=1)
        code = self._process.returncode
        if code is None:
            return "closed its connection and was ended"
        if code >= 0:
            return f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            return "was killed by signal 9, probably for want of memory (see dmesg)"
        return f"was killed by signal {-code} ({signal.strsignal(-code)})"

    async def _session_gone(self) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while any(map(_lives, _members(self.pid))) and time.monotonic() < deadline:
            self.kill()
            await asyncio.sleep(0.005)
        # As process 1 of a container the daemon is the parent of what its workers leave.
        for process in _members(self.pid):
            with suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)  # noqa: ASYNC222 - does not wait

    async def _log_event(self, event: Mapping[str, Any]) -> None:
        level, fields = event.get("level"), event.get("fields")
        named = {
            f"{key}_" if key in _RESERVED else str(key): clean(value)
            for key, value in (fields if isinstance(fields, dict) else {}).items()
        }
        await self._log_line(
            level if isinstance(level, str) and level in _LEVELS else "info",
            clean(str(event.get("message"))),
            named,
        )

    async def _log_line(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        self._report_dropped()
        if self._limiter.admit():
            getattr(self.log, level)(message, **fields)
        elif self._limiter.dropped % 100 == 0:
            await asyncio.sleep(THROTTLE_SECONDS)

    def _report_dropped(self, *, at_end: bool = False) -> None:
        dropped = self._limiter.take_dropped(at_end=at_end)
        if dropped:
            self.log.warning(f"... {dropped} lines dropped")

    def _print(self, line: bytes) -> None:
        text = line[:LONGEST_LINE].decode(errors="backslashreplace").rstrip()
        self._tail.append(text)
        self._report_dropped()
        if self._limiter.admit():
            self.log.info("worker output", line=text)


def _members(session: int) -> Iterator[int]:
    """The processes of a session, as far as they can be seen; none when there is no descriptor to look with."""
    names = list[str]()
    with suppress(OSError):
        names = os.listdir(_PROC)
    for process in map(int, filter(str.isdigit, names)):
        with suppress(OSError):
            if os.getsid(process) == session:
                yield process


def _lives(process: int) -> bool:
    """Whether it lives; one that only waits to be reaped by its parent does not."""
    try:
        return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (OSError, IndexError):
        return False


def _kill(process: int, session: int) -> None:
    """End a process, unless it has ended and its number is another's."""
    with suppress(OSError):
        descriptor = os.pidfd_open(process)
        try:
            if os.getsid(process) == session:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def clean(value: Any) -> Any:
    """Half a surrogate pair can be sent in JSON, but neither logged nor stored."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
