"""A job's own lines of the log, in its folder."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atenea import job_log
from atenea.job_log import keep_job_lines, last_lines

JOB = "1k0z7h25ew6"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / JOB).mkdir()
    return tmp_path / JOB


def keep(folder: Path, **event: Any) -> None:
    """Let a line pass that is about the job with this folder, unless it says otherwise."""
    given = {"job": JOB, **event}
    assert keep_job_lines(folder.parent)(None, "info", dict(given)) == given


def events(folder: Path, most: int = 100) -> list[Any]:
    return [line["event"] for line in last_lines(folder, most)]


def test_lines_with_a_job_are_kept_and_the_last_ones_found(folder: Path) -> None:
    assert last_lines(folder, 10) == []
    for number in range(5):
        keep(folder, event=f"line {number}", level="info", stage="tts")
    assert last_lines(folder, 1) == [{"job": JOB, "event": "line 4", "level": "info", "stage": "tts"}]
    assert events(folder, 3) == ["line 2", "line 3", "line 4"]
    assert stat.S_IMODE((folder / "log.jsonl").stat().st_mode) & 0o007 == 0


def test_other_lines_are_not(folder: Path, tmp_path: Path) -> None:
    keep(folder, event="of no job", job=None)
    keep(folder, event="of something else", job="../" + JOB)
    keep(folder, event="of a job that is gone", job="00000000000")
    assert [path.name for path in tmp_path.rglob("*")] == [JOB]


def test_of_very_many_the_last_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "_MOST_BYTES", 1000)
    for number in range(200):
        keep(folder, event=f"line {number}")
        assert sum(path.stat().st_size for path in folder.iterdir()) < 2200
    kept = events(folder)
    assert len(kept) > 20
    assert kept == [f"line {number}" for number in range(200)][-len(kept) :]
    assert sorted(os.listdir(folder)) == ["log.jsonl", "log.older.jsonl"]


def test_a_long_line_is_cut(folder: Path) -> None:
    keep(folder, event="x" * 100_000, exception="y" * 100_000)
    (line,) = last_lines(folder, 10)
    assert (len(line["event"]), len(line["exception"])) == (4_099, 4_099)


def test_half_a_line_of_a_crash_and_what_is_no_object_are_left_out(folder: Path) -> None:
    keep(folder, event="before")
    with (folder / "log.jsonl").open("a") as file:
        file.write('[1]\n{"event": "hal\n')
    keep(folder, event="after")
    assert events(folder) == ["before", "after"]


def test_names_that_are_no_utf8_survive(folder: Path) -> None:
    keep(folder, event="taken", file="caf\udce9.txt")
    assert [line["file"] for line in last_lines(folder, 10)] == ["caf\udce9.txt"]


def test_a_plugin_that_puts_something_else_in_its_place_misleads_nobody(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"event": "secret"}))
    (folder / "log.jsonl").symlink_to(secret)
    keep(folder, event="to a link")
    assert (events(folder), secret.read_text()) == ([], json.dumps({"event": "secret"}))
    (folder / "log.jsonl").unlink()
    os.mkfifo(folder / "log.jsonl")
    keep(folder, event="to a pipe that nobody reads")
    assert events(folder) == []


def test_the_daemons_log_has_the_lines_too_and_both_are_without_secrets(folder: Path) -> None:
    program = (
        "import pathlib, structlog\nfrom atenea.logs import configure_logging\n"
        f"configure_logging(['sk-very-secret'], jobs=pathlib.Path({str(folder.parent)!r}))\n"
        f"structlog.get_logger().info('says sk-very-secret', job={JOB!r})\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    logged = json.loads(ran.stderr)
    assert "sk-very-secret" not in logged["event"]
    assert last_lines(folder, 10) == [logged]
