"""Uploads with scp and sftp through a real sshd."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.instance import PATIENCE_SECONDS, Instance, wait_until
from wild.ssh import Server
from wild.tools import assert_once, long_text, needs, refusal, run, running, said, send, stall, taken

LONG = long_text(600_000)
SLOW = ("-l", "2000")
"""Kilobits per second: the long text takes more than two seconds, with pauses longer than the settle time."""

SLOWER = ("-l", "500")
"""For what is interrupted and never comes to its end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


def upload(tmp_path: Path, name: str, text: str) -> Path:
    """A file to send."""
    path = tmp_path / f"{name}.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("protocol", ["-s", "-O"], ids=["sftp", "scp"])
def test_scp(server: Server, inbox: Instance, tmp_path: Path, protocol: str) -> None:
    name = f"scp{protocol}"
    run("scp", protocol, *server.options, upload(tmp_path, name, "Hello."), f"127.0.0.1:{inbox.inbox}")
    assert_once(inbox, name, "Hello.")


def test_scp_throttled(server: Server, inbox: Instance, tmp_path: Path) -> None:
    """Its pauses are longer than the settle time."""
    run("scp", *SLOW, *server.options, upload(tmp_path, "throttled", LONG), f"127.0.0.1:{inbox.inbox}")
    assert_once(inbox, "throttled", LONG)


def test_scp_stalled(server: Server, inbox: Instance, tmp_path: Path) -> None:
    source = upload(tmp_path, "stalled", LONG)
    with running("scp", *SLOW, *server.options, source, f"127.0.0.1:{inbox.inbox}") as scp:
        stall(scp, inbox, "stalled", len(LONG))
        assert scp.wait(PATIENCE_SECONDS) == 0
    assert_once(inbox, "stalled", LONG)


def test_scp_interrupted(server: Server, inbox: Instance, tmp_path: Path) -> None:
    """Nothing tells the part from a whole file: it is spoken; what is sent again is a job of its own."""
    source = upload(tmp_path, "interrupted", LONG)
    with running("scp", *SLOWER, *server.options, source, f"127.0.0.1:{inbox.inbox}") as scp:
        wait_until(lambda: taken(inbox, "interrupted"), "the part to settle")
        send(scp, signal.SIGKILL)
    part = said(inbox, "interrupted")
    assert len(part) < len(LONG)
    assert LONG.startswith(part)
    run("scp", *server.options, source, f"127.0.0.1:{inbox.inbox}")
    assert said(inbox, "interrupted-2") == LONG


def test_scp_interrupted_in_a_character(inbox: Instance) -> None:
    inbox.drop("cut.txt", "Hola, señ".encode()[:-1])
    assert refusal(inbox, "cut").startswith("cut.txt: ends in the middle of a character: the upload was cut off")


def test_sftp(server: Server, inbox: Instance, tmp_path: Path) -> None:
    source = upload(tmp_path, "sftp", "Hello.")
    run("sftp", *server.options, "-b", "-", "127.0.0.1", text=f"put {source} {inbox.inbox}/\n")
    assert_once(inbox, "sftp", "Hello.")


def test_sftp_under_another_name(server: Server, inbox: Instance, tmp_path: Path) -> None:
    """What the documentation recommends: a hidden name first, then the final one."""
    source = upload(tmp_path, "renamed", long_text(20_000))
    commands = (
        f"put {source} {inbox.inbox}/.renamed.part\nrename {inbox.inbox}/.renamed.part {inbox.inbox}/renamed.txt\n"
    )
    run("sftp", *SLOW, *server.options, "-b", "-", "127.0.0.1", text=commands)
    assert_once(inbox, "renamed", long_text(20_000))


def test_sftp_stalled(server: Server, inbox: Instance, tmp_path: Path) -> None:
    source = upload(tmp_path, "sftp-stalled", LONG)
    (tmp_path / "batch").write_text(f"put {source} {inbox.inbox}/\n")
    with running("sftp", *SLOW, *server.options, "-b", tmp_path / "batch", "127.0.0.1") as sftp:
        stall(sftp, inbox, "sftp-stalled", len(LONG))
        assert sftp.wait(PATIENCE_SECONDS) == 0
    assert_once(inbox, "sftp-stalled", LONG)


def test_sftp_interrupted(server: Server, inbox: Instance, tmp_path: Path) -> None:
    (tmp_path / "batch").write_text(f"put {upload(tmp_path, 'sftp-cut', LONG)} {inbox.inbox}/\n")
    with running("sftp", *SLOWER, *server.options, "-b", tmp_path / "batch", "127.0.0.1") as sftp:
        wait_until(lambda: taken(inbox, "sftp-cut"), "the part to settle")
        send(sftp, signal.SIGKILL)
    assert LONG.startswith(said(inbox, "sftp-cut"))


def test_rsync_over_ssh(server: Server, inbox: Instance, tmp_path: Path) -> None:
    needs("rsync", "rsync")
    source = upload(tmp_path, "rsync-ssh", long_text(20_000))
    shell = f"ssh {' '.join(server.options)}"
    run("rsync", "-a", "--bwlimit=20", "-e", shell, source, f"127.0.0.1:{inbox.inbox}/")
    assert_once(inbox, "rsync-ssh", long_text(20_000))
