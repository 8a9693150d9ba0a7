"""One process at a time owns a state folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from atenea.errors import BusyError, ExitCode, UsageError
from atenea.state_lock import StateLock

_HOLDER = """
import sys
from pathlib import Path
from atenea.state_lock import StateLock
with StateLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(state: Path) -> subprocess.Popen[str]:
    """Another process that has the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_is_refused_by_the_number_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(BusyError) as caught, StateLock(tmp_path):
            pass
        assert str(caught.value) == f"{tmp_path}: in use by another atenea (process {process.pid})"
        assert caught.value.exit_code is ExitCode.BUSY
        process.communicate("end\n")
    with StateLock(tmp_path):
        assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_who_is_patient_gets_it_when_the_other_lets_go(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        letting_go = threading.Timer(0.1, process.kill)
        letting_go.start()
        with StateLock(tmp_path, patience=60):
            assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"
        letting_go.join()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with StateLock(tmp_path):
            pass


def test_it_holds_within_a_process_too_and_can_be_taken_again(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    with lock, pytest.raises(BusyError, match=rf"process {os.getpid()}\)$"), StateLock(tmp_path):
        pass
    with lock:
        pass


def test_the_lock_is_released_when_its_holder_breaks(tmp_path: Path) -> None:
    with pytest.raises(KeyError), StateLock(tmp_path):
        raise KeyError
    with StateLock(tmp_path):
        pass


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    with StateLock(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "print('up', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
    assert child.stdout
    assert child.stdout.readline() == b"up\n"
    with child, StateLock(tmp_path):
        child.communicate(b"end\n")


def test_the_lock_file_is_never_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "daemon.lock").symlink_to(victim)
    with pytest.raises(UsageError) as caught, StateLock(tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path / 'daemon.lock'}: cannot be opened: Too many levels of symbolic links"
    assert victim.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, StateLock(tmp_path / "gone"):
        pass
    assert str(caught.value) == f"{tmp_path / 'gone/daemon.lock'}: cannot be opened: No such file or directory"
