"""What the daemon tells a service manager, on the socket where it listens; a real one is in `test_systemd`."""

from __future__ import annotations

import json
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import pytest
from system.gates import CONFIG, Gates
from system.hanging import hanging_open
from system.instance import PATIENCE_SECONDS, NewInstance, wait_until


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The socket on which a service manager listens."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"{folder}/notify")
        server.settimeout(PATIENCE_SECONDS)
        yield server


@pytest.fixture(autouse=True)
def has_systemd_python(request: pytest.FixtureRequest) -> None:
    if "manager" in request.fixturenames:
        pytest.importorskip("systemd.daemon", reason="systemd-python is not installed")


def read_until(server: socket.socket, last: str) -> list[str]:
    """All messages up to and with the last one."""
    messages: list[str] = []
    while messages[-1:] != [last]:
        messages.append(server.recv(4096).decode())
    return messages


def told(messages: list[str]) -> list[str]:
    """Without what only asks for time."""
    return [message for message in messages if not message.startswith("EXTEND_TIMEOUT_USEC=")]


STOPPING = ["STOPPING=1", "STATUS=stopping; what runs goes on at the next start"]


def test_the_manager_is_told_ready_status_and_stopping(new_instance: NewInstance, manager: socket.socket) -> None:
    instance = new_instance(CONFIG, NOTIFY_SOCKET=manager.getsockname())
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    start = read_until(manager, "STATUS=idle; 0 waiting")
    assert start[0] == "EXTEND_TIMEOUT_USEC=10000000"
    assert told(start) == ["READY=1", "STATUS=idle; 0 waiting"]
    instance.drop("hello\nREADY=0.txt", "Hello.")
    gates.wait("render")
    instance.drop("second.txt", "Hello.")
    running = read_until(manager, "STATUS=hello_READY=0: render by gated 25%; second: render by gated 25%; 0 waiting")
    assert all(message.startswith("STATUS=") and "\n" not in message for message in running)
    gates.open("render")
    instance.output("second.mp4")
    read_until(manager, "STATUS=idle; 0 waiting")
    instance.atenea("pause")
    read_until(manager, "STATUS=idle; 0 waiting, paused")
    assert instance.stop() == 0
    assert told(read_until(manager, STOPPING[-1])) == STOPPING


def test_the_manager_waits_while_a_stage_winds_down(new_instance: NewInstance, manager: socket.socket) -> None:
    instance = new_instance("[render]\nplugin = 'stubborn'\n", NOTIFY_SOCKET=manager.getsockname())
    instance.plugin("stubborn", STUBBORN.format(folder=str(instance.folder)))
    instance.start()
    instance.drop("hello.txt", "Hello.")
    wait_until((instance.folder / "renders").exists, "the render")
    assert instance.process is not None
    instance.process.send_signal(signal.SIGTERM)
    assert told(read_until(manager, STOPPING[-1]))[-2:] == STOPPING
    assert [manager.recv(4096).decode() for _ in range(2)] == ["EXTEND_TIMEOUT_USEC=10000000"] * 2
    assert instance.process.poll() is None
    (instance.folder / "give-in").touch()
    assert instance.stop() == 0


STUBBORN = """
import time

@hookimpl
def render(job, wav, ctx):
    Path({folder!r}, "renders").touch()
    while not Path({folder!r}, "give-in").exists():
        time.sleep(0.01)
    ctx.progress(0.5, "")
"""


def test_the_manager_is_told_of_a_reload(new_instance: NewInstance, manager: socket.socket) -> None:
    instance = new_instance(NOTIFY_SOCKET=manager.getsockname()).start()
    read_until(manager, "STATUS=idle; 0 waiting")
    assert instance.process is not None
    for config, outcome in [
        ("[tts]\nplugin = 3\n", "the configuration is not reloaded"),
        ("", "configuration reloaded"),
    ]:
        instance.configure(config)
        instance.process.send_signal(signal.SIGHUP)
        began, _, moment = manager.recv(4096).decode().partition("\nMONOTONIC_USEC=")
        assert (began, moment.isdecimal()) == ("RELOADING=1", True)
        assert manager.recv(4096).decode() == "READY=1"
        assert len(instance.events(outcome)) == 1


# The watchdog


def test_signs_of_life_come_until_a_look_into_the_inbox_hangs(
    new_instance: NewInstance, manager: socket.socket
) -> None:
    instance = new_instance(NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="400000")
    instance.start()
    read_until(manager, "WATCHDOG=1")
    read_until(manager, "WATCHDOG=1")
    with hanging_open(instance.inbox):
        manager.settimeout(2)
        with pytest.raises(TimeoutError):
            while True:
                assert manager.recv(4096) == b"WATCHDOG=1"
        manager.settimeout(PATIENCE_SECONDS)
        assert instance.ask("jobs")["jobs"] == []  # all else goes on
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert instance.stop() == 0


def test_another_processes_watchdog_is_left_alone(new_instance: NewInstance, manager: socket.socket) -> None:
    instance = new_instance(NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="1000", WATCHDOG_PID="1").start()
    assert instance.stop() == 0
    assert "WATCHDOG=1" not in read_until(manager, STOPPING[-1])


def test_workers_do_not_speak_to_the_manager(new_instance: NewInstance, manager: socket.socket) -> None:
    instance = new_instance(
        "[post]\nplugins = ['nosy']\n", NOTIFY_SOCKET=manager.getsockname(), WATCHDOG_USEC="60000000"
    )
    instance.plugin(
        "nosy",
        "import os\n@hookimpl\ndef post(job, video, ctx):\n"
        "    ctx.report['seen'] = sorted({'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'LISTEN_FDS'} & set(os.environ))\n",
    )
    instance.drop("hello.txt", "Hello.")
    instance.start()
    manager.settimeout(0.05)

    def finished() -> bool:
        with suppress(TimeoutError):
            manager.recv(4096)  # who does not read lets the daemon wait
        return (instance.outbox / "hello.mp4").exists()

    wait_until(finished, "the video")
    assert instance.stop() == 0
    assert json.loads((instance.outbox / "hello.json").read_text())["stages"][-1].get("report") == {"seen": []}


def test_without_systemd_python_the_start_says_what_to_install(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "path" / "systemd").mkdir(parents=True)
    (instance.folder / "path" / "systemd" / "__init__.py").touch()
    instance.environment |= {"NOTIFY_SOCKET": "/nowhere", "PYTHONPATH": str(instance.folder / "path")}
    done = instance.atenea("run", code=2)
    assert done.stderr.splitlines()[-1] == (
        "atenea: systemd waits for notice of the start (Type=notify), but systemd-python is not installed;"
        f" run: {sys.executable} -m pip install 'atenea[systemd]'"
    )
