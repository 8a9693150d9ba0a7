"""What the daemon tells systemd, when systemd started it."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from atenea import threads
from atenea.errors import UsageError
from atenea.installing import pip

_INTERVAL_SECONDS = 2.0
_LEAST_INTERVAL_SECONDS = 0.1
_EXTENSION_SECONDS = 10.0
_MOST_STILL_SECONDS = 300.0
"""For how long file work may stand still at the start and at the end, where the watchdog does not look."""


class Service:
    """Notifies the service manager; does nothing when there is none.

    Attributes:
        patience: how many seconds the manager waits for a sign of life before it ends the daemon; None: for ever.
        interval: how many seconds apart the daemon tells how it is.

    Raises:
        UsageError: the manager waits for notice, but systemd-python is not installed.
    """

    def __init__(self) -> None:
        self.patience = _patience(os.environ)
        self.interval = min(max((self.patience or math.inf) / 4, _LEAST_INTERVAL_SECONDS), _INTERVAL_SECONDS)
        self._status = ""
        self._ready = self._stopping = False
        self._notify = None
        if not os.environ.get("NOTIFY_SOCKET"):
            return
        try:
            from systemd.daemon import notify  # noqa: PLC0415 - an extra, of use only under systemd
        except ImportError:
            raise UsageError(
                "systemd waits for notice of the start (Type=notify), but systemd-python is not installed;"
                f" run: {pip('install', 'atenea[systemd]')}"
            ) from None
        self._notify = notify

    def ready(self) -> None:
        """The daemon does its work from now on, or again after `reloading`."""
        self._ready = True
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is read anew, until `ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon is on its way out; told once."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")
            self.status("stopping; what runs goes on at the next start")

    def status(self, text: str) -> None:
        """What `systemctl status` shows, one line; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self, standstill: float) -> None:
        """A sign of life, if the daemon has stood still for fewer seconds than the manager waits for one."""
        if self.patience and standstill < self.patience:
            self._send("WATCHDOG=1")

    @asynccontextmanager
    async def patient(self, seconds: float) -> AsyncIterator[None]:
        """Meanwhile the manager waits beyond its time limit: so many seconds, then as long as file work gets on."""
        asking = asyncio.create_task(self._ask_for_time(time.monotonic() + seconds))
        try:
            yield
        finally:
            asking.cancel()

    async def _ask_for_time(self, until: float) -> None:
        while time.monotonic() < until or _file_work_gets_on():
            self._send(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_SECONDS * 1e6)}")
            if self._ready and not self._stopping:  # its watchdog looks on, and the daemon's loops do not tell
                self.alive(0.0)
            await asyncio.sleep(self.interval)

    def _send(self, message: str) -> None:
        if self._notify:
            self._notify(message)


def _file_work_gets_on() -> bool:
    seconds = threads.standstill()
    return seconds is not None and seconds < _MOST_STILL_SECONDS


def _patience(environment: Mapping[str, str]) -> float | None:
    """Of the manager's watchdog, if it watches this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else None
