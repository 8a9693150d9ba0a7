"""A command on a terminal: what it writes, as the eye sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from system.instance import PATIENCE_SECONDS, wait_until

_HOME = "\x1b[H"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A command that runs on a terminal of its own. A context manager, which ends it."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], columns: int = 80, rows: int = 24
    ) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        hidden = {"COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"}
        shown = {name: value for name, value in environment.items() if name not in hidden}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**shown, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(theirs)
        self.written = b""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def said(self) -> str:
        """All that was written so far, one after the other."""
        self._read()
        return _CONTROL.sub("", self.written.decode(errors="replace"))

    def lines(self) -> list[str]:
        """What the screen showed last: each picture of it begins with the cursor in its corner."""
        self._read()
        pictures = self.written.decode(errors="replace").split(_HOME)
        complete = pictures[-2] if len(pictures) > 1 else ""
        return [line.rstrip() for line in _CONTROL.sub("", complete).splitlines()]

    def wait_for(self, condition: Callable[[str], object], what: str) -> str:
        """Wait until the whole screen is as the condition wants it; the screen."""

        def look() -> str | None:
            shown = "\n".join(self.lines())
            return shown if condition(shown) else None

        found: str = wait_until(look, what)
        return found

    def press(self, keys: str) -> None:
        """Type on its keyboard."""
        os.write(self._ours, keys.encode())

    def end(self, number: int = signal.SIGINT) -> int:
        """End the command as Ctrl+C does; its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        self._read()
        return code

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return
            self.written += piece
