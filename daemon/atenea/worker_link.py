"""The worker's end of the socket to the daemon: JSON lines, commands in and events out."""

from __future__ import annotations

import json
import math
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from atenea.errors import Cancelled, PermanentError

LINE_LIMIT = 1 << 20
"""The longest line, in bytes, that either side sends."""

_PROGRESS_SECONDS = 0.1
_TEXT = 4_096


class Link:
    """Events go out from any thread. Commands come in on a thread of their own, which also sees the daemon's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def setup(self) -> dict[str, Any]:
        """The first line: what the daemon says before any task."""
        return self._receive()

    def tasks(self) -> Iterator[dict[str, Any]]:
        """The tasks, one at a time, until the daemon ends this process."""
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        while True:
            yield self._tasks.get()

    def send(self, event: Mapping[str, Any]) -> None:
        """Send one event.

        Raises:
            PermanentError: it is larger than the daemon accepts.
        """
        line = json.dumps(event, default=_plain).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise PermanentError(f"{len(line):,} bytes of results are too much; put them into a file and attach that")
        with self._sending:
            self._connection.sendall(line)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the daemon cancelled the task."""
        if self._cancelled.is_set():
            raise Cancelled

    def _listen(self) -> None:
        try:
            while True:
                command = self._receive()
                if "task" in command:
                    self._cancelled.clear()
                    self._tasks.put(command["task"])
                elif command.get("cancel"):
                    self._cancelled.set()
        finally:
            end_group()

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            end_group()
        command: dict[str, Any] = json.loads(line)
        return command


class Progress:
    """Sends progress as often as the daemon needs it, and the last word always."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._sent = -math.inf
        self._pending: dict[str, Any] | None = None

    def __call__(self, fraction: float, text: str) -> None:
        """What `ctx.progress` does; raises Cancelled."""
        self._link.check_cancelled()
        fraction = float(fraction)
        event = {
            "event": "progress",
            "fraction": 0.0 if math.isnan(fraction) else fraction,
            "text": str(text)[:_TEXT],
        }
        with self._lock:
            self._pending = event
            if time.monotonic() - self._sent >= _PROGRESS_SECONDS:
                self._send()

    def flush(self) -> None:
        """Send what was held back."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._pending:
            self._link.send(self._pending)
            self._pending = None
            self._sent = time.monotonic()


def send_logs(link: Link) -> None:
    """Let every structlog logger of this process send its lines to the daemon."""

    def send(_logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
        message = str(event.pop("event", ""))[:_TEXT]
        fields = {str(key)[:64]: _short(value) for key, value in list(event.items())[:32]}
        link.send({"event": "log", "level": level, "message": message, "fields": fields})
        raise structlog.DropEvent

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            send,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        logger_factory=structlog.ReturnLoggerFactory(),
    )


def leave_guardian(connection: socket.socket) -> None:
    """Leave a process behind that ends this process group as soon as the daemon is gone.

    A signal at the parent's death would end this process before it could end what plugins started, and a thread cannot
    do it while a library holds the interpreter's lock. The guardian is a grandchild, so that a plugin that waits for
    its own children does not wait for it.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            _guard(connection)
    finally:
        os._exit(0)


def _guard(connection: socket.socket) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    poller = select.poll()
    poller.register(connection, 0)  # a hang-up is reported whatever is asked for
    poller.poll()
    end_group()


def end_group() -> None:
    """End this process and all that plugins started in its group."""
    if os.getpgrp() != os.getsid(0):
        os._exit(1)  # started by hand: the group is the shell's
    os.killpg(0, signal.SIGKILL)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _short(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else str(value)[:_TEXT]
