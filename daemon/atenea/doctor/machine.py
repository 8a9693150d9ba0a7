"""Python, the packages that atenea always needs, and systemd."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from atenea.doctor.packages import package_findings
from atenea.finding import Finding
from atenea.installing import pip

PYTHON = (3, 11)
"""The oldest that will do."""

_BOOTED = Path("/run/systemd/system")
"""There while systemd manages the machine."""


def machine_findings() -> Iterator[Finding]:
    """Look at what has nothing to do with the configuration."""
    yield python_finding(sys.version_info[:2])
    yield from package_findings()
    yield from systemd_findings(
        booted=_BOOTED.is_dir(),
        started="NOTIFY_SOCKET" in os.environ,
        installed=find_spec("systemd") is not None,
    )


def python_finding(version: tuple[int, ...]) -> Finding:
    """Whether this version of Python will do."""
    if version < PYTHON:
        text = f"Python {'.'.join(map(str, version))} is too old: {'.'.join(map(str, PYTHON))} is needed"
        return Finding("python", "problem", text, "install atenea with a newer Python")
    return Finding("python", "ok", f"Python {platform.python_version()}, {sys.executable}")


def systemd_findings(*, booted: bool, started: bool, installed: bool) -> Iterator[Finding]:
    """Whether the daemon can tell systemd that it is ready.

    Args:
        booted: systemd manages this machine.
        started: it has started this process, and waits for notice.
        installed: the package systemd-python is there.
    """
    if installed and booted:
        yield Finding("systemd", "ok", "systemd-python is there")
    elif not installed and (booted or started):
        yield Finding(
            "systemd",
            "problem" if started else "note",
            "systemd-python is missing, without which atenea.service cannot be started",
            f"apt install gcc pkg-config libsystemd-dev python3-dev, then {pip('install', 'systemd-python>=235')}",
        )
