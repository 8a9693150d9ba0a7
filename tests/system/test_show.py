"""`atenea show`: the time of each stage, what failed, the files and the log of one job."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from system.instance import RENDER_STUB, NewInstance, wait_until

from atenea.cli.details import detail_lines
from atenea.job_files import job_files
from atenea.rows import StepRow

SECOND_TIME_LUCKY = (
    RENDER_STUB.replace("@hookimpl\ndef render", "def draw").replace("import wave", "import time, wave")
    + """
@hookimpl
def render(job, wav, ctx):
    ctx.log.warning("the lamp flickers", watts=40)
    tried = (ctx.workdir / "tried").exists()
    print("printed by the plugin", flush=True)
    # What is printed has a way of its own to the daemon, and counts for the job as long as the job's stage runs.
    log = next(folder for folder in ctx.workdir.parents if (folder / "log.jsonl").exists()) / "log.jsonl"
    while log.read_text().count("printed by the plugin") < 1 + tried:
        time.sleep(0.01)
    if not tried:
        time.sleep(0.1)
        (ctx.workdir / "tried").touch()
        raise TransientError("the lamp is cold")
    return draw(job, wav, ctx)
"""
)


def test_what_happened_to_a_job(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'stub'\n[retry]\nfirst_seconds = 0.1\n")
    instance.plugin("stub", SECOND_TIME_LUCKY)
    instance.start()
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.mp4")
    job = instance.wait_for_state("hello", "done")
    wait_until(lambda: instance.job("hello")["log"][-1]["event"] == "job finished", "the last line")
    shown = instance.job("hello")

    (failed,) = [attempt for attempt in shown["attempts"] if attempt["outcome"] != "done"]
    assert (failed["outcome"], failed["error"]) == ("transient", "render plugin 'stub': the lamp is cold")
    steps = {step["stage"]: step for step in shown["steps"]}
    assert list(steps) == ["intake", "tts", "audio", "render", "mux", "publish"]
    assert steps["render"]["ran"] > steps["render"]["seconds"]
    assert steps["render"]["waited"] >= 0.08  # of the delay before the second attempt

    files = {Path(file["path"]).name: file for file in shown["files"]}
    assert {name: file["what"] for name, file in files.items()} == {
        "hello.txt": "input",
        "hello.json": "output",
        "hello.mp4": "output",
    }
    assert files["hello.txt"]["bytes"] == len("Hello.")
    assert files["hello.mp4"]["bytes"] == (instance.outbox / "hello.mp4").stat().st_size

    events = [line["event"] for line in shown["log"]]
    assert events[:2] == ["job taken", "job accepted"]
    assert events.count("the lamp flickers") == 2
    assert [line["line"] for line in shown["log"] if line["event"] == "worker output"] == ["printed by the plugin"] * 2
    assert {line["job"] for line in shown["log"]} == {job["id"]}
    of_the_job = [entry for entry in instance.events() if entry.get("job") == job["id"]]
    assert shown["log"] == of_the_job

    text = instance.atenea("show", "hello").stdout
    assert re.search(r"^  render stub +[0-9.]+ s +[0-9.]+ s +[.#]+$", text, re.MULTILINE)
    assert ": transient: render plugin 'stub': the lamp is cold\n" in text
    assert f"6 bytes  {instance.folder}/state/jobs/{job['id']}/original/hello.txt\n" in text
    assert "Z warning the lamp flickers stage=render plugin=stub watts=40\n" in text

    (instance.outbox / "hello.mp4").unlink()
    assert instance.stop() == 0
    assert instance.job("hello")["log"][: len(events)] == shown["log"]
    assert f"gone  {instance.outbox}/hello.mp4\n" in instance.atenea("show", "hello").stdout


def step(
    stage: str, plugin: str | None = None, waited: float | None = None, ran: float | None = None
) -> dict[str, Any]:
    return {"stage": stage, "plugin": plugin, "waited": waited, "ran": ran, "done": bool(ran)}


@pytest.fixture
def job() -> dict[str, Any]:
    """A job that waits for its render."""
    steps = [step("intake", None, 1.0, 1.0), step("tts", "espeak", 0.04, 8.0), step("render", "hallo2", 150.0, 0.0)]
    values = {"id": "1k0z7h25ew6", "name": "hello", "state": "audio", "running": False, "stage": None, "plugin": None}
    values |= {"fraction": None, "progress": "", "seconds_left": None, "frames_per_second": None}
    values |= {"render_seconds": 90.0, "starts_in": 300.0, "next_attempt": None, "waiting_for": [], "error": None}
    values |= {"file": "news/hello.txt", "taken": "2026-11-23T10:00:00.000+00:00"}
    return {**values, "steps": [*steps, step("publish")], "attempts": [], "files": [], "log": []}


def test_bars_stand_for_the_time_of_each_stage(job: dict[str, Any]) -> None:
    assert list(detail_lines(job)) == [
        "hello (1k0z7h25ew6): audio",
        "  starts in about 5 min 0 s",
        "  the render will take about 1 min 30 s",
        "  taken: 2026-11-23T10:00:00.000+00:00 as news/hello.txt",
        "                       waited           ran",
        "  intake                1.0 s         1.0 s",
        "  tts espeak            0.0 s         8.0 s  ##",
        "  render hallo2    2 min 30 s         to do  " + "." * 32,
        "  publish               to do",
    ]


def test_no_bar_is_long_where_nothing_took_long(job: dict[str, Any]) -> None:
    job["steps"] = [step("intake", None, 0.0, 0.04), step("publish", None, 0.0, 0.01)]
    assert list(detail_lines(job))[-2:] == [
        "  intake          0.0 s         0.0 s  #",
        "  publish         0.0 s         0.0 s",
    ]


def test_a_short_log_is_shown_whole(job: dict[str, Any]) -> None:
    job["log"] = [{"timestamp": "2026-11-23T10:00:00.123456Z", "level": "info", "event": "job taken"}] * 20
    log, *lines = list(detail_lines(job))[-21:]
    assert (log, set(lines)) == ("  log:", {"    2026-11-23T10:00:00Z info job taken"})


def test_a_running_render_tells_how_fast_it_is(job: dict[str, Any]) -> None:
    job |= {"running": True, "stage": "render", "plugin": "hallo2", "fraction": 0.25, "progress": "clip 1\x1b[2J"}
    job |= {"seconds_left": 75.0, "frames_per_second": 3.25}
    now = list(detail_lines(job))[1]
    assert now == "  now: hallo2 25%, 3.2 frames/s, 1 min 15 s left, clip 1_[2J"


def test_whatever_is_in_the_log_stays_on_its_line(job: dict[str, Any]) -> None:
    line = {"timestamp": "2026-11-23T10:00:00.123456Z", "level": "info", "event": "worker\noutput", "pid": 7}
    job["log"] = [{**line, "number": number, "line": "\x1b]0;title\x07", "plugin": ""} for number in range(30)]
    job["files"] = [{"what": "input", "path": "/state/caf\udce9\n.txt", "bytes": 1234567}]
    *_, files, file, log, earlier, first, second = list(detail_lines(job))[:-18]
    assert earlier == "    ... 10 earlier: atenea show 1k0z7h25ew6 --json"
    assert (files, file) == ("  files:", "    input        1,234,567 bytes  /state/caf__.txt")
    assert (log, first) == ("  log:", "    2026-11-23T10:00:00Z info worker_output number=10 line=_]0;title_")
    assert second.endswith("number=11 line=_]0;title_")


def test_what_a_job_has_on_disk(tmp_path: Path) -> None:
    for name in ("original/a/b.txt", "input/ana.png", "work/tts/speech.wav", "work/tts/notes", "job.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "original/link").symlink_to("/etc/passwd")
    result = {"artifact": "work/tts/speech.wav", "attachments": {".srt": "work/gone.srt"}, "timing": None}
    made = StepRow(stage="tts", needs=frozenset({"cpu"}), position=1, failures=0, seconds=1.0, result=result)
    to_do = StepRow(stage="audio", needs=frozenset({"cpu"}), position=2, failures=0, seconds=None, result=None)
    files = job_files(tmp_path, [made, to_do], [str(tmp_path / "job.json"), str(tmp_path / "gone.mp4")])
    assert [(file["what"], Path(file["path"]).relative_to(tmp_path).as_posix(), file["bytes"]) for file in files] == [
        ("input", "original/a/b.txt", 16),
        ("input", "input/ana.png", 13),
        ("artifact", "work/tts/speech.wav", 19),
        ("output", "job.json", 8),
        ("output", "gone.mp4", None),
    ]
    json.dumps(files)
