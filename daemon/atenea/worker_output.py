"""What a worker prints, as the daemon reads it: line by line, and not too much of it."""

from __future__ import annotations

import asyncio
import fcntl
import math
import struct
import termios
import time
from collections.abc import Callable

LONGEST_LINE = 4_096
THROTTLE_SECONDS = 0.01
_DRAIN_SECONDS = 1.0
"""How long what was printed is waited for; children that a plugin left behind may print without end."""


class LineLimiter:
    """Lets `most` lines through in each `seconds`, and counts the others."""

    def __init__(self, most: int = 200, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._since = -math.inf
        self._admitted = 0
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many lines were dropped since this was last told."""
        return self._dropped

    def admit(self) -> bool:
        """Whether the next line may pass."""
        if self._admitted >= self._most:
            self._dropped += 1
            return False
        self._admitted += 1
        return True

    def take_dropped(self, *, at_end: bool = False) -> int:
        """How many lines were dropped, told once, when a new period begins or everything ends."""
        if not at_end and self._clock() - self._since < self._seconds:
            return 0
        dropped, self._dropped = self._dropped, 0
        self._since, self._admitted = self._clock(), 0
        return dropped


class Output(asyncio.Protocol):
    """What plugins print, line by line. Nothing is held back here but a line's beginning, so that `drained` can tell.

    One that floods is slowed down rather than let the daemon be busy with it.
    """

    def __init__(self) -> None:
        self._on_line: Callable[[bytes], None] = lambda _line: None
        self._floods: Callable[[], object] = lambda: False
        self._rest = b""
        self.ended = asyncio.get_running_loop().create_future()

    def give(self, on_line: Callable[[bytes], None], floods: Callable[[], object]) -> None:
        """Begin to read: each line goes there; while `floods()`, slowly."""
        self._on_line, self._floods = on_line, floods
        self._transport.resume_reading()

    async def drained(self) -> None:
        """Wait until all that was printed by now was given; not for ever."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._unread() and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells when a pipe is empty
            await asyncio.sleep(THROTTLE_SECONDS)
        self._finish_line()

    def close(self) -> None:
        """Read no more."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pipe is open."""
        assert isinstance(transport, asyncio.ReadTransport)  # noqa: S101 - of a pipe
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Something was printed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line)
        if len(self._rest) > LONGEST_LINE:
            self._finish_line()
        if self._floods():
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(THROTTLE_SECONDS, self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Nobody can print any more."""
        self._finish_line()
        if not self.ended.done():
            self.ended.set_result(None)

    def _finish_line(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._on_line(rest)

    def _unread(self) -> bool:
        """Whether there is something in the pipe."""
        pipe = self._transport.get_extra_info("pipe")
        if self.ended.done() or pipe.closed:
            return False
        return bool(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
