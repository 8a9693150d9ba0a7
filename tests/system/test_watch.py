"""`atenea jobs --watch`, on a real terminal and in a pipe, while daemons come and go."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from system.gates import CONFIG, Gates
from system.instance import PATIENCE_SECONDS, Instance, NewInstance
from system.screen import Screen

from atenea.cli.gpus import Gpu, parse_gpus
from atenea.cli.watch import screen
from atenea.config import load_config
from atenea.control import look

NVIDIA_SMI = """#!/bin/sh
echo "$@" >> {folder}/asked
echo "0, 97, 62000, 143771, NVIDIA H200"
echo "1, [N/A], [N/A], [N/A], A card, divided"
"""


def watching(instance: Instance, *, path: Path | None = None, **size: int) -> Screen:
    """The command on a terminal, with another folder first in PATH if wanted."""
    programs = f"{path or instance.folder}:{instance.environment['PATH']}"
    command = instance.command("jobs", "--watch", "--config", "atenea.toml")
    return Screen(command, instance.folder, {**instance.environment, "PATH": programs}, **size)


def fake_nvidia_smi(folder: Path) -> Path:
    programs = folder / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(NVIDIA_SMI.format(folder=folder))
    (programs / "nvidia-smi").chmod(0o755)
    return programs


def test_the_table_shows_the_queue_and_what_changes_in_it(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio")
    instance.start()
    with watching(instance, path=fake_nvidia_smi(instance.folder)) as terminal:
        terminal.wait_for(lambda shown: "the daemon is running; no jobs yet" in shown, "the empty queue")
        instance.drop("hello.txt", "Hello.")
        shown = terminal.wait_for(lambda shown: "render gated" in shown and "25%" in shown, "the render")
        (row,) = [line for line in shown.splitlines() if "hello" in line]
        assert row.split()[1:4] == ["hello", "render", "gated"]
        shown = terminal.wait_for(lambda shown: "GPU 1" in shown, "the GPUs")
        first, second = (line.split() for line in shown.splitlines() if line.startswith("GPU"))
        assert first[:4] == ["GPU", "0", "NVIDIA", "H200"]
        assert ("97%" in first, first[-4:]) == (True, ["60.5", "of", "140.4", "GiB"])
        assert second == ["GPU", "1", "A", "card,", "divided"]
        gates.open("render", "post")
        terminal.wait_for(lambda shown: "done" in shown and "render" not in shown, "its end")
        assert terminal.end() == 0
        assert b"\x1b[?1049l" in terminal.written  # what stood there before is back
    asked = (instance.folder / "asked").read_text().splitlines()
    assert set(asked) == {
        "--query-gpu=index,utilization.gpu,memory.used,memory.total,name --format=csv,noheader,nounits"
    }


def test_daemons_come_and_go(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    with watching(instance, columns=120) as terminal:
        terminal.wait_for(lambda shown: "the daemon is running" in shown and "at the gate" in shown, "the queue")
        instance.stop(signal.SIGKILL)
        shown = terminal.wait_for(lambda shown: "no daemon is running" in shown, "the daemon's end")
        assert "hello" in shown
        assert "25%" not in shown
        instance.start()
        terminal.wait_for(lambda shown: "the daemon is running" in shown and "at the gate" in shown, "the next one")
        assert "Traceback" not in terminal.written.decode()
        assert terminal.end() == 0


def test_without_a_daemon_the_ledger_is_shown_and_nobody_is_held_up(new_instance: NewInstance) -> None:
    instance = new_instance()
    refused = instance.atenea("jobs", "--watch", code=2)
    assert refused.stderr.endswith("state: no daemon has run here yet; start it (atenea run), or name its --config\n")
    instance.start()
    instance.drop("bad.txt", "")
    instance.output("bad.error.txt")
    assert instance.stop() == 0
    lock = instance.folder / "state/daemon.lock"
    owner = lock.read_text()
    with watching(instance) as terminal:
        shown = terminal.wait_for(lambda shown: "bad" in shown, "the ledger")
        assert shown.splitlines()[0] == "no daemon is running"
        assert terminal.end() == 0
    assert lock.read_text() == owner  # nobody but daemons and what changes something takes the lock
    assert look(load_config(instance.folder / "atenea.toml"), "jobs")["jobs"][0]["name"] == "bad"


def test_in_a_pipe_a_line_is_printed_for_each_change(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    plain, objects = (
        subprocess.Popen(
            instance.command("jobs", "--watch", *more, "--config", "atenea.toml"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=instance.folder,
        )
        for more in ((), ("--json",))
    )
    assert plain.stdout is not None
    assert objects.stdout is not None
    while (line := plain.stdout.readline().split("\t"))[2:4] != ["render", "25%"]:
        assert line[1] == "hello"
    while (job := json.loads(objects.stdout.readline())["jobs"][0])["fraction"] != 0.25:
        pass
    instance.atenea("cancel", "hello")
    while (line := plain.stdout.readline().split("\t"))[2] != "cancelled":
        assert line[2] == "render"
    while (job := json.loads(objects.stdout.readline())["jobs"][0])["state"] != "cancelled":
        assert job["state"] == "render"
    for process in (plain, objects):
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, rest) == (0, "")
        assert said == ("the daemon is running\n" if process is plain else "")


def test_in_a_pipe_finished_jobs_have_no_percentage_of_the_step_that_was_their_last(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio", "render")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    instance.wait_for_job("hello", lambda job: (job["stage"], job["fraction"]) == ("post", 0.25), "to be at the gate")
    with subprocess.Popen(
        instance.command("jobs", "--watch", "--config", "atenea.toml"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=instance.folder,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split("\t")[1:4] == ["hello", "post", "25%"]
        instance.drop("bad.txt", "")
        while (line := watching.stdout.readline().rstrip("\n").split("\t"))[2] != "failed":
            assert line[1:] in (["bad", "queued", "", "", ""], ["bad", "queued", "0%", "", ""])
        assert line[1:4] == ["bad", "failed", ""]
        gates.open("post")
        while (line := watching.stdout.readline().rstrip("\n").split("\t"))[2] != "done":
            assert line[1:3] == ["hello", "post"]
        assert line[1:] == ["hello", "done", "", "", ""]
        watching.send_signal(signal.SIGINT)
        assert watching.communicate(timeout=PATIENCE_SECONDS)[0] == ""
        assert watching.returncode == 0
    listed = instance.atenea("jobs").stdout.splitlines()
    assert {tuple(line.split("\t")[1:4]) for line in listed} == {("hello", "done", ""), ("bad", "failed", "")}


def test_a_render_begins_with_the_time_that_the_last_one_took(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open("tts", "audio", "render", "post")
    instance.start()
    instance.drop("first.txt", "Hello.")
    instance.wait_for_state("first", "done")
    gates.close("render")
    assert instance.stop() == 0
    with sqlite3.connect(instance.folder / "state/ledger.sqlite3") as ledger:
        ledger.execute("UPDATE steps SET seconds = 4000 WHERE stage = 'render'")
    ledger.close()
    instance.start()
    instance.drop("second.txt", "Hello.")
    gates.wait("render", 2)
    job = instance.wait_for_job("second", lambda job: job["fraction"] == 0.25, "to render")
    assert (job["render_seconds"], job["frames_per_second"]) == (4000.0, None)
    assert 2000 < job["seconds_left"] <= 3000  # of three quarters, less the time since it began
    assert instance.job("second")["render_seconds"] == 4000.0


# The screen at other moments and of other sizes


def job(name: str, **more: Any) -> dict[str, Any]:
    values = {"id": "1k0z7h25ew6", "name": name, "state": "done", "running": False, "stage": None, "plugin": None}
    values |= {"fraction": None, "progress": "", "seconds_left": None, "frames_per_second": None}
    values |= {"render_seconds": None, "starts_in": None, "next_attempt": None, "waiting_for": [], "error": None}
    return {**values, **more}


def running(name: str, **more: Any) -> dict[str, Any]:
    pace = {"fraction": 0.5, "seconds_left": 61.0, "frames_per_second": 3.25, "progress": "clip 1 of 2"}
    return job(name, **{"state": "render", "running": True, "stage": "render", "plugin": "hallo2", **pace, **more})


def drawn(jobs: list[dict[str, Any]], width: int, height: int, gpus: list[Gpu] | None = None, **more: Any) -> list[str]:
    """The screen's lines, as a terminal of this size has them."""
    answer = {"daemon": True, "paused": False, "more": 0, "jobs": jobs}
    console = Console(width=width, height=height, force_terminal=False, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(screen(answer, more.get("trouble"), gpus or [], width, height))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_render_tells_its_pace_and_others_what_they_wait_for() -> None:
    jobs = [
        running("one"),
        job("two", state="audio", render_seconds=125.0, starts_in=61.0),
        job("bad", state="failed", error="no text"),
    ]
    lines = drawn(jobs, 120, 24)
    assert lines[2].split() == ["JOB", "NAME", "STAGE", "DONE", "FRAMES/S", "LEFT", "NOTE"]
    assert " ".join(lines[3].split("hallo2")[1].split()[1:]) == "50% 3.2 1 min 1 s clip 1 of 2"
    assert [line.split()[1:] for line in lines[6:]] == [
        ["two", "audio", "~2", "min", "5", "s", "starts", "in", "about", "1", "min", "1", "s"],
        ["bad", "failed", "no", "text"],
    ]
    assert "NOTE" not in drawn(jobs, 80, 24)[2]


@pytest.mark.parametrize("width", [80, 120])
def test_no_name_breaks_a_line(width: int) -> None:
    long, wide = "n" * 190, "日本語の名前" * 10
    jobs = [running(long, progress="\x1b[2J\nbeware"), running(wide, plugin="p" * 60), job(long), job(wide)]
    lines = drawn(jobs, width, 24)
    assert len(lines) == 9
    assert all(line.startswith("1k0z7h25ew6 ") for line in (lines[3], lines[4], lines[7], lines[8]))
    assert all(sum(1 + (ord(letter) > 0x2E80) for letter in line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("height", [10, 14, 24, 50])
def test_more_jobs_than_the_screen_has_room_for(height: int) -> None:
    jobs = [*(running(f"r{number}") for number in range(30)), *(job(f"d{number}") for number in range(30))]
    gpus = list(parse_gpus("0, 5, 1024, 2048, A\n"))
    lines = drawn(jobs, 100, height, gpus)
    rows = [line for line in lines if line.startswith("1k0z")]
    assert f"... and {60 - len(rows)} more" in lines
    assert sum(" r" in line for line in rows) >= 3 <= sum(" d" in line for line in rows)
    assert len(lines) <= max(height, 14)
    assert lines[-1].endswith("1.0 of 2.0 GiB")


def test_what_keeps_the_queue_from_being_known_stands_above_it() -> None:
    lines = drawn([job("one")], 80, 24, trouble="state: the daemon does not answer; see its log")
    assert lines[0] == "state: the daemon does not answer; see its log"


def test_what_the_drivers_program_says() -> None:
    said = "0, 0, 1024, 4096, NVIDIA A\nNo devices were found\n\n3, [N/A], 512, [Unknown Error], B, C\n"
    assert list(parse_gpus(said)) == [Gpu(0, "NVIDIA A", 0.0, 1.0, 4.0), Gpu(3, "B, C", None, 0.5, None)]
