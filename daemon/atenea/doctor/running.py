"""Whether a daemon runs, and with the code that is installed now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import atenea
from atenea.control import daemon_process
from atenea.finding import Finding

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def daemon_findings(state: Path) -> Iterator[Finding]:
    """Look for the daemon of a state folder, without taking its lock."""
    try:
        process = daemon_process(state)
    except PermissionError:
        text = "this user may not talk to the daemon"
        yield Finding("process", "note", text, f"join the group that owns the socket in {state}")
        return
    except OSError as error:
        yield Finding("process", "note", f"the daemon cannot be reached: {error.strerror or error}", "look at its log")
        return
    if process is None:
        yield Finding("process", "note", "no daemon is running", "start it: atenea run, or systemctl start atenea")
        return
    started, installed = started_at(process), _installed_at()
    if started is not None and started < installed:
        since = datetime.fromtimestamp(started).astimezone().isoformat(" ", "seconds")
        text = f"the daemon (process {process}) runs since {since}, and atenea has changed since"
        yield Finding("process", "note", text, "start it again, for example with: systemctl restart atenea")
    else:
        yield Finding("process", "ok", f"it runs (process {process})")


def started_at(process: int) -> float | None:
    """When a process was started, in seconds since 1970; None if that cannot be known."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        kernel = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, IndexError):
        return None
    booted = next((float(line.split()[1]) for line in kernel if line.startswith("btime ")), None)
    return None if booted is None else booted + ticks / _TICKS_PER_SECOND


def _installed_at() -> float:
    package = Path(atenea.__file__).parent
    return max(file.stat().st_mtime for file in package.rglob("*.py"))
