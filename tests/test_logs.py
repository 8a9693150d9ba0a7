"""Logs on a terminal, in a pipe and in the journal: readable, on one line, and without secrets. In real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SECRET = "sk-very-secret"

_PROGRAM = """
import structlog
from atenea.logs import configure_logging

configure_logging(["sk-very-secret"])
log = structlog.get_logger()
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM + body]


def json_lines(body: str, **environment: str) -> list[dict[str, Any]]:
    """What a program logs into a pipe."""
    ran = subprocess.run(program(body), capture_output=True, check=True, env={**os.environ, **environment}, timeout=60)
    assert ran.stdout == b""
    return [json.loads(line) for line in ran.stderr.decode().splitlines()]


def on_terminal(body: str) -> str:
    """What a program logs on a terminal, colours removed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(program(body), stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            shown += piece
        os.close(ours)
        assert process.wait(60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


def test_a_pipe_gets_one_json_object_per_line() -> None:
    (line,) = json_lines(
        "structlog.contextvars.bind_contextvars(job='j1')\n"
        "log.debug('silent')\n"
        "log.warning('größer\\nals', number=3, part=0.5, flag=True, nothing=None, names=['a'])"
    )
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "größer\nals",
        "level": "warning",
        "job": "j1",
        "number": 3,
        "part": 0.5,
        "flag": True,
        "nothing": None,
        "names": ["a"],
    }


_SECRETIVE = """
from pathlib import Path
try:
    try:
        raise ValueError("inner sk-very-secret")
    except ValueError as error:
        raise RuntimeError("outer sk-very-secret") from error
except RuntimeError:
    log.exception("with sk-very-secret", key="sk-very-secret", deep={"a": [("sk-very-secret",)]},
                  path=Path("/x/sk-very-secret"), error=KeyError("sk-very-secret"))
"""


def test_no_secret_in_json_nor_in_its_tracebacks() -> None:
    (line,) = json_lines(_SECRETIVE)
    assert _SECRET not in json.dumps(line)
    assert line["event"] == "with [secret]"
    assert line["key"] == "[secret]"
    assert line["deep"] == {"a": [["[secret]"]]}
    assert line["path"] == "/x/[secret]"
    assert line["error"] == "'[secret]'"
    assert "ValueError: inner [secret]" in line["exception"]
    assert line["exception"].endswith("RuntimeError: outer [secret]")


def test_no_secret_on_a_terminal_nor_in_its_tracebacks() -> None:
    shown = on_terminal(_SECRETIVE)
    assert _SECRET not in shown
    assert "with [secret]" in shown
    assert "ValueError: inner [secret]" in shown
    assert "RuntimeError: outer [secret]" in shown


def test_a_name_cannot_steer_the_terminal_nor_add_a_line() -> None:
    shown = on_terminal("log.info('taken \\x1b]0;x\\x07', name='a\\x1b[2Jb', other='c\\u202ed', line='e\\nf')")
    assert "taken _]0;x_" in shown
    assert "name=a_[2Jb" in shown
    assert "other=c_d" in shown
    assert "line=e_f" in shown
    assert shown.count("\n") == 1


def test_a_name_that_is_not_utf8_can_be_logged() -> None:
    (line,) = json_lines("log.info('taken', name='caf\\udce9', path=__import__('pathlib').Path('x\\udcff'))")
    assert (line["name"], line["path"]) == ("caf\\udce9", "x\\udcff")
    assert "name=caf\\udce9" in on_terminal("log.info('taken', name='caf\\udce9')")


_JOURNAL = """
import json

def send(message, **fields):
    for value in [message, *map(str, fields.values())]:
        value.encode()  # as the library does
    print(json.dumps([message, fields]), flush=True)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A stand-in for systemd-python, which is an extra; and what stands for the journal's socket."""
    package = tmp_path / "systemd"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "journal.py").write_text(_JOURNAL)
    return tmp_path


def to_journal(folder: Path, body: str, *, connected: bool = True) -> tuple[list[Any], str]:
    """What the journal gets from a program, and what stands in its standard error."""
    with (folder / "stderr").open("wb") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino if connected else 1}"
        environment = {**os.environ, "JOURNAL_STREAM": stream, "PYTHONPATH": str(folder)}
        ran = subprocess.run(program(body), stdout=subprocess.PIPE, stderr=stderr, env=environment, check=True)
    return [json.loads(line) for line in ran.stdout.splitlines()], (folder / "stderr").read_text()


def test_the_journal_gets_fields_and_priorities(journal: Path) -> None:
    entries, stderr = to_journal(
        journal, "log.error('broke sk-very-secret', job='j1', error=None)\nlog.info('name', name='a\\udce9')"
    )
    assert entries == [
        ["broke [secret] job=j1", {"PRIORITY": 3, "SYSLOG_IDENTIFIER": "atenea", "ATENEA_JOB": "j1"}],
        ["name name=a\\udce9", {"PRIORITY": 6, "SYSLOG_IDENTIFIER": "atenea", "ATENEA_NAME": "a\\udce9"}],
    ]
    assert stderr == ""


def test_the_journal_takes_fields_of_any_name(journal: Path) -> None:
    ((message, fields),), _ = to_journal(journal, f"log.info('hello', **{{'a-ü b': 1, '{'k' * 99}': 2}})")
    assert message == f"hello a-ü b=1 {'k' * 99}=2"
    assert fields.keys() - {"PRIORITY", "SYSLOG_IDENTIFIER"} == {"ATENEA_A___B", f"ATENEA_{'K' * 57}"}


def test_a_traceback_is_a_field_of_the_journal_and_holds_no_secret(journal: Path) -> None:
    ((message, fields),), _ = to_journal(journal, _SECRETIVE)
    assert message.startswith("with [secret] ")
    assert "Traceback" not in message
    assert fields["ATENEA_EXCEPTION"].endswith("RuntimeError: outer [secret]")
    assert _SECRET not in json.dumps(fields)


def test_standard_error_that_is_not_the_journals_gets_json(journal: Path) -> None:
    entries, stderr = to_journal(journal, "log.info('hello')", connected=False)
    assert entries == []
    assert json.loads(stderr)["event"] == "hello"
