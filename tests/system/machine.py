"""A throw-away machine with a real systemd, on which the unit from this repository is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from system.instance import PATIENCE_SECONDS, wait_until

REPOSITORY = Path(__file__).parents[2]
_SANDBOX = Path(__file__).with_name("systemd-sandbox")
_STATE = "/var/lib/atenea"
_DROP_INS = "/etc/systemd/system/atenea.service.d"
_PLACES = (Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1], REPOSITORY)
"""What the service needs of the machine that runs the tests."""

_INSTALLED = {
    "etc/sysusers.d/atenea.conf": "/etc/sysusers.d/atenea.conf",
    "etc/tmpfiles.d/atenea.conf": "/etc/tmpfiles.d/atenea.conf",
    "atenea.service": "/etc/systemd/system/atenea.service",
}


def _places_in(*folders: str) -> list[Path]:
    return [place for place in _PLACES if any(place.is_relative_to(folder) for folder in folders)]


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine with the service, which does not run yet; skips where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("a systemd in a sandbox needs root")
    if not Path("/lib/systemd/systemd").exists() or not shutil.which("unshare"):
        pytest.skip("systemd is not installed")
    if _places_in("/tmp", "/run"):
        pytest.skip("atenea lies under /tmp or /run, which the machine in the sandbox has of its own")
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")
    machine = Machine(folder)
    try:
        machine.install()
        yield machine
    finally:
        machine.power_off()


class Machine:
    """A machine that is up.

    Attributes:
        home_is_shown: the service sees parts of `/home` or `/root`, because what it needs lies there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.home_is_shown = bool(_places_in("/root", "/home"))
        done = self._sandbox("start", check=False)
        if done.returncode:
            pytest.skip(f"no systemd can be booted here: {done.stderr.strip() or done.stdout.strip()}")
        self._root = f"/proc/{(folder / 'pid').read_text().strip()}/root"

    def _sandbox(self, verb: str, *words: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(_SANDBOX), verb, str(self._folder), *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def power_off(self) -> None:
        self._sandbox("stop", check=False)

    # Commands and files

    def command(self, *words: str) -> list[str]:
        """What, typed outside, runs a command on it as root."""
        return ["bash", str(_SANDBOX), "exec", str(self._folder), *words]

    def run(self, *words: str, given: str = "", check: bool = True) -> str:
        """Run a command on it as root; its output."""
        done = self._sandbox("exec", *words, given=given, check=check)
        return done.stdout + done.stderr

    def run_as(self, user: str, *words: str, given: str = "", check: bool = True) -> str:
        """Run a command as a user, with the user's groups."""
        return self.run("runuser", "-u", user, "--", "env", f"--chdir={_STATE}", *words, given=given, check=check)

    def succeeds(self, *words: str) -> bool:
        return self._sandbox("exec", *words, check=False).returncode == 0

    def write(self, path: str, content: str) -> None:
        """Write a file as root."""
        self.run("tee", path, given=content)

    def drop(self, name: str, content: str, *, user: str = "ana", umask: str = "022") -> None:
        """Write a file into the inbox as a user."""
        self.run_as(user, "sh", "-c", f'umask {umask}; cat > "inbox/$0"', name, given=content)

    def read(self, path: str) -> str:
        """A file as it is now, read from outside, which costs next to nothing; empty while there is none."""
        try:
            return Path(f"{self._root}{path}").read_text()
        except FileNotFoundError:
            return ""

    def output(self, name: str) -> str:
        """Wait for a file in the outbox; its path."""
        path = f"{_STATE}/outbox/{name}"
        wait_until(Path(f"{self._root}{path}").exists, path)
        return path

    def folder(self, name: str) -> Path:
        """A folder of the service, as it is reached from outside."""
        return Path(f"{self._root}{_STATE}/{name}")

    def names(self, folder: str) -> list[str]:
        """What lies in a folder of the service."""
        return self.run("ls", "-A", f"{_STATE}/{folder}").split()

    def plugin(self, name: str, code: str) -> None:
        """Install a plugin for the service."""
        self.run("mkdir", "-p", f"{_STATE}/plugins")
        self.write(f"{_STATE}/plugins/{name}.py", code)

    def add_user(self, name: str, *groups: str) -> None:
        self.run("useradd", "--create-home", *(f"--groups={group}" for group in groups), name)

    # The service

    def install(self) -> None:
        """Install as on a real machine: environment under /opt/atenea, user, folders and unit."""
        self.run("mkdir", "-p", "/opt/atenea", "/etc/sysusers.d", "/etc/tmpfiles.d", _DROP_INS)
        self.run("ln", "-s", sys.prefix, "/opt/atenea/venv")
        for source, place in _INSTALLED.items():
            self.write(place, (REPOSITORY / source).read_text())
        self.run("systemd-sysusers", "atenea.conf")
        self.run("systemd-tmpfiles", "--create", "atenea.conf")
        if self.home_is_shown:
            shown = " ".join(str(place) for place in _places_in("/root", "/home"))
            self.write(f"{_DROP_INS}/home.conf", f"[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={shown}\n")
            self.run("chmod", "o+x", "/root")  # for commands of users
        self.write(f"{_DROP_INS}/soon.conf", "[Service]\nRestartSec=100ms\n")
        self.run("systemctl", "daemon-reload")
        self.add_user("ana", "atenea")

    @contextmanager
    def changed(self, content: str) -> Iterator[None]:
        """Meanwhile the service runs with an addition to its unit."""
        path = f"{_DROP_INS}/test.conf"
        self.write(path, content)
        self.run("systemctl", "daemon-reload")
        self.started()
        try:
            yield
        finally:
            self.run("rm", path)
            self.run("systemctl", "daemon-reload")
            self.run("systemctl", "stop", "atenea")

    def started(self) -> Machine:
        """The service runs anew."""
        done = self._sandbox("exec", "systemctl", "restart", "atenea", check=False)
        assert done.returncode == 0, self.run("journalctl", "--unit=atenea", "--no-pager")
        return self

    def show(self, *names: str) -> dict[str, str]:
        """Properties of the unit."""
        lines = self.run("systemctl", "show", "atenea", *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for_status(self, begin: str) -> None:
        """Wait until the status line begins like this."""
        wait_until(
            lambda: self.show("StatusText").get("StatusText", "").startswith(begin),
            f"{begin}; {self.run('journalctl', '--unit=atenea', '--lines=20', '--no-pager')}",
        )

    def log(self, message: str, *matches: str) -> list[dict[str, str]]:
        """The entries of the unit's journal that start with this message."""
        lines = self.run("journalctl", "--unit=atenea", "--output=json", "--no-pager", *matches).splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if str(entry.get("MESSAGE")).startswith(message)]

    def job(self, name: str) -> dict[str, Any]:
        """What `atenea show` says about a job to a user in the group."""
        shown: dict[str, Any] = json.loads(self.run_as("ana", "/opt/atenea/venv/bin/atenea", "show", name, "--json"))
        return shown
