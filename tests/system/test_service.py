"""The daemon under a service manager: what it notifies, and a real systemd that runs the unit from this repository."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.gates import CONFIG, Gates
from system.instance import NewInstance, wait_until

REPOSITORY = Path(__file__).parents[2]
SANDBOX = Path(__file__).with_name("systemd-sandbox")

# The protocol


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The socket on which a service manager listens."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"{folder}/notify")
        server.settimeout(60)
        yield server


def read_until(server: socket.socket, last: str) -> list[str]:
    """All messages up to and with the last one."""
    messages: list[str] = []
    while messages[-1:] != [last]:
        messages.append(server.recv(4096).decode())
    return messages


def test_the_manager_is_told_ready_status_and_stopping(new_instance: NewInstance, manager: socket.socket) -> None:
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")
    instance = new_instance(CONFIG, NOTIFY_SOCKET=manager.getsockname())
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    assert read_until(manager, "STATUS=idle; 0 waiting") == ["READY=1", "STATUS=idle; 0 waiting"]
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    instance.drop("second.txt", "Hello.")
    told = read_until(manager, "STATUS=gated 25%, gated 25%; 0 waiting")
    assert all(message.startswith("STATUS=") for message in told)
    gates.open("render")
    instance.output("second.mp4")
    read_until(manager, "STATUS=idle; 0 waiting")
    instance.atenea("pause")
    read_until(manager, "STATUS=idle; 0 waiting, paused")
    assert instance.stop() == 0
    assert read_until(manager, "STOPPING=1") == ["STOPPING=1"]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_workers_do_not_speak_to_the_manager(new_instance: NewInstance, manager: socket.socket) -> None:
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")
    instance = new_instance("[post]\nplugins = ['nosy']\n", NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="1")
    instance.plugin(
        "nosy",
        "import os\n@hookimpl\ndef post(job, video, ctx):\n"
        "    ctx.report['seen'] = sorted({'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'LISTEN_FDS'} & set(os.environ))\n",
    )
    instance.drop("hello.txt", "Hello.")
    instance.atenea("run", "--once")
    assert json.loads((instance.outbox / "hello.json").read_text())["stages"][-1].get("report") == {"seen": []}


def test_without_systemd_python_the_start_says_what_to_install(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "path" / "systemd").mkdir(parents=True)
    (instance.folder / "path" / "systemd" / "__init__.py").touch()
    instance.environment |= {"NOTIFY_SOCKET": "/nowhere", "PYTHONPATH": str(instance.folder / "path")}
    done = instance.atenea("run", code=2)
    assert done.stderr.splitlines()[-1] == (
        "atenea: systemd waits for notice of the start (Type=notify), but systemd-python is not installed;"
        " install atenea with the extra: pip install 'atenea[systemd]'"
    )


# A real systemd


def lies_in(folder: str) -> bool:
    """Whether something that the service needs lies in this folder of the machine that runs the tests."""
    places = [Path(sys.prefix), Path(sys.executable).resolve(), REPOSITORY]
    return any(place.is_relative_to(folder) for place in places)


class Machine:
    """A throw-away machine with systemd, on which the unit is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        done = self._sandbox("start", check=False)
        if done.returncode:
            pytest.skip(f"no systemd can be booted here: {done.stderr.strip() or done.stdout.strip()}")

    def _sandbox(self, verb: str, *words: str, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(SANDBOX), verb, str(self._folder), *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def run(self, *words: str, given: str = "", check: bool = True) -> str:
        """Run a command on it; its output."""
        done = self._sandbox("exec", *words, given=given, check=check)
        return done.stdout + done.stderr

    def succeeds(self, *words: str) -> bool:
        return self._sandbox("exec", *words, check=False).returncode == 0

    def write(self, path: str, content: str, user: str = "root") -> None:
        """Write a file as a user."""
        self.run("runuser", "-u", user, "--", "tee", path, given=content)

    def install(self) -> None:
        """Install as on a real machine: environment under /opt/atenea, user by sysusers, unit."""
        self.run("mkdir", "-p", "/opt/atenea", "/usr/local/lib/sysusers.d", "/etc/systemd/system/atenea.service.d")
        self.run("ln", "-s", sys.prefix, "/opt/atenea/venv")
        users, unit = REPOSITORY / "etc" / "sysusers.d" / "atenea.conf", REPOSITORY / "atenea.service"
        self.write("/usr/local/lib/sysusers.d/atenea.conf", users.read_text())
        self.run("systemd-sysusers", "atenea.conf")
        self.write("/etc/systemd/system/atenea.service", unit.read_text())
        homes = [home for home in ("/root", "/home") if lies_in(home)]
        if homes:  # of the machine that runs the tests; only then does the unit need to look into them
            self.write("/etc/systemd/system/atenea.service.d/test.conf", "[Service]\nProtectHome=no\n")
            self.run("chmod", "o+x", *homes)
        self.run("systemctl", "daemon-reload")

    def show(self, *names: str) -> dict[str, str]:
        """Properties of the unit."""
        lines = self.run("systemctl", "show", "atenea", *(f"--property={name}" for name in names)).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def log(self, message: str) -> list[dict[str, str]]:
        """The entries of the unit's journal that start with this message."""
        lines = self.run("journalctl", "--unit=atenea", "--output=json", "--no-pager").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if str(entry.get("MESSAGE")).startswith(message)]

    def started(self) -> Machine:
        """The service runs, with no job in it."""
        done = self._sandbox("exec", "systemctl", "restart", "atenea", check=False)
        assert done.returncode == 0, self.run("journalctl", "--unit=atenea", "--no-pager")
        return self

    def wait_for_file(self, path: str) -> None:
        wait_until(lambda: self.succeeds("test", "-s", path), f"{path}; {self.run('ls', '-R', '/var/lib/atenea')}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("a systemd in a sandbox needs root")
    if not Path("/lib/systemd/systemd").exists() or not shutil.which("unshare"):
        pytest.skip("systemd is not installed")
    if lies_in("/tmp") or lies_in("/run"):
        pytest.skip("atenea lies under /tmp or /run, which the machine in the sandbox has of its own")
    pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")
    folder = tmp_path_factory.mktemp("machine")
    machine = Machine(folder)
    try:
        machine.install()
        yield machine
    finally:
        subprocess.run(["bash", str(SANDBOX), "stop", str(folder)], capture_output=True, timeout=60)


def test_the_unit_has_no_mistakes(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "verify", "/etc/systemd/system/atenea.service") == ""


def test_sysusers_makes_a_user_who_cannot_log_in(machine: Machine) -> None:
    name, _, _, _, about, home, shell = machine.run("getent", "passwd", "atenea").strip().split(":")
    assert (name, about, home) == ("atenea", "atenea daemon", "/var/lib/atenea")
    assert shell.endswith("/nologin")


def test_a_text_in_the_services_inbox_becomes_a_video(machine: Machine) -> None:
    machine.started()
    shown = machine.show("ActiveState", "SubState", "MainPID")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert machine.run("ps", "-o", "user=", "-p", shown["MainPID"]).strip() == "atenea"
    wait_until(lambda: machine.show("StatusText")["StatusText"] == "idle; 0 waiting", "the status")
    machine.write("/var/lib/atenea/inbox/hello.txt", "Hello from a service.", user="atenea")
    machine.wait_for_file("/var/lib/atenea/outbox/hello.mp4")
    machine.wait_for_file("/var/lib/atenea/outbox/hello.json")
    assert machine.run("ls", "-A", "/var/lib/atenea/inbox") == ""

    job = json.loads(machine.run("cat", "/var/lib/atenea/outbox/hello.json"))["id"]
    [entry] = wait_until(lambda: machine.log("job finished"), "the journal")
    assert entry["MESSAGE"] == f"job finished job={job} name=hello state=done files=['hello.json', 'hello.mp4']"
    fields = ("PRIORITY", "SYSLOG_IDENTIFIER", "ATENEA_JOB", "ATENEA_NAME", "ATENEA_STATE", "_SYSTEMD_UNIT")
    assert [entry[name] for name in fields] == ["6", "atenea", job, "hello", "done", "atenea.service"]
    stages = [(entry["ATENEA_STAGE"], entry["ATENEA_PLUGIN"]) for entry in machine.log("stage started")]
    assert stages == [("tts", "espeak"), ("audio", "wav"), ("render", "preview"), ("mux", "")]


WAITING = """
from atenea import hookimpl
import time

@hookimpl
def render(job, wav, ctx):
    while True:
        ctx.progress(0.5, "waiting")
        time.sleep(0.01)
"""


def waiting_job(machine: Machine, name: str) -> None:
    """A job that renders and does not end."""
    machine.run("mkdir", "-p", "/var/lib/atenea/plugins")
    machine.write("/var/lib/atenea/plugins/waiting.py", WAITING)
    machine.started()
    machine.write(f"/var/lib/atenea/inbox/{name}.toml", 'text = "Wait."\n[render]\nplugin = "waiting"\n', user="atenea")
    wait_until(lambda: machine.show("StatusText")["StatusText"] == "waiting 50%; 0 waiting", "the render")


def cancel(machine: Machine, name: str) -> None:
    folder = ("env", "--chdir=/var/lib/atenea")
    machine.run("runuser", "-u", "atenea", "--", *folder, "/opt/atenea/venv/bin/atenea", "cancel", name)


def test_stop_ends_everything_at_once(machine: Machine) -> None:
    waiting_job(machine, "stopped")
    processes = machine.run("pgrep", "-u", "atenea").split()
    assert len(processes) > 2
    machine.run("systemctl", "stop", "atenea")
    assert machine.show("ActiveState", "SubState", "Result", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "SubState": "dead",
        "Result": "success",
        "ExecMainStatus": "0",
    }
    assert machine.run("pgrep", "-u", "atenea", check=False) == ""
    cancel(machine, "stopped")


def test_a_killed_daemon_is_started_again_and_goes_on(machine: Machine) -> None:
    waiting_job(machine, "killed")
    before = machine.show("MainPID", "NRestarts")
    workers = set(machine.run("pgrep", "-u", "atenea").split())
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "atenea")

    def is_back() -> bool:
        shown = machine.show("MainPID", "NRestarts", "ActiveState", "StatusText")
        return (
            shown["NRestarts"] == str(int(before["NRestarts"]) + 1)
            and (shown["ActiveState"], shown["StatusText"]) == ("active", "waiting 50%; 0 waiting")
            and shown["MainPID"] != before["MainPID"]
        )

    wait_until(is_back, "the restart")
    assert workers & set(machine.run("pgrep", "-u", "atenea").split()) == set()
    cancel(machine, "killed")


def test_reload_keeps_the_process_and_reads_the_configuration(machine: Machine) -> None:
    machine.started()
    before = machine.show("MainPID")
    count = len(machine.log("configuration reloaded"))
    machine.run("systemctl", "reload", "atenea")
    wait_until(lambda: len(machine.log("configuration reloaded")) == count + 1, "the journal")
    assert machine.show("MainPID") == before
    assert machine.show("ActiveState") == {"ActiveState": "active"}
