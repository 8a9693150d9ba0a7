"""What the daemon tells systemd, when systemd started it."""

from __future__ import annotations

import os

from atenea.errors import UsageError


class Service:
    """Notifies the service manager; does nothing when there is none.

    Raises:
        UsageError: the manager waits for notice, but systemd-python is not installed.
    """

    def __init__(self) -> None:
        self._status = ""
        self._notify = None
        if not os.environ.get("NOTIFY_SOCKET"):
            return
        try:
            from systemd.daemon import notify  # noqa: PLC0415 - an extra, of use only under systemd
        except ImportError:
            raise UsageError(
                "systemd waits for notice of the start (Type=notify), but systemd-python is not installed;"
                " install atenea with the extra: pip install 'atenea[systemd]'"
            ) from None
        self._notify = notify

    def ready(self) -> None:
        """The daemon does its work from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if self._notify:
            self._notify(message)
