"""The daemon is killed, workers die, the network fails: every job is done exactly once, and nothing is left lying."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from system.gates import CONFIG, DRAW, STAGES, Gates
from system.instance import PATIENCE_SECONDS, RENDER_STUB, Instance, NewInstance, wait_until

STUB = "[render]\nplugin = 'stub'\n"


@pytest.fixture
def gated(new_instance: NewInstance) -> Instance:
    return new_instance(CONFIG)


def lives(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_nothing_is_left(instance: Instance) -> None:
    """No file that atenea hides, stages or works with; of each job its original, what intake made of it, its log."""
    assert os.listdir(instance.inbox) == []
    assert [name for name in instance.outputs() if name.startswith(".") or name.endswith(".progress.txt")] == []
    kept = ["job.json", "log.jsonl", "original", "record.json"]
    for folder in (instance.folder / "state" / "jobs").iterdir():
        wait_until(lambda folder=folder: sorted(os.listdir(folder)) == kept, f"{folder} to empty")
        assert list(folder.rglob(".*")) == []


def outcomes(instance: Instance, name: str) -> list[tuple[str, str]]:
    return [(attempt["stage"], attempt["outcome"]) for attempt in instance.job(name)["attempts"]]


def kill_when(instance: Instance, condition: Callable[[], object]) -> None:
    """Kill the daemon as soon as the condition, which must come and stay, holds; without a pause between two looks."""
    assert instance.process is not None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert instance.process.poll() is None
        assert time.monotonic() < deadline
    instance.stop(signal.SIGKILL)


def test_a_daemon_killed_in_every_stage_goes_on_from_the_last_finished_one(gated: Instance) -> None:
    gates = Gates(gated)
    gates.close("check")
    gated.start()
    gated.drop("hello.txt", "Hello.")
    for stage in STAGES:
        pid = gates.wait(stage, 1)["pid"]
        assert lives(pid)
        gated.stop(signal.SIGKILL)
        gated.start()
        assert gates.wait(stage, 2)["alive"] == []
        assert not lives(pid)
        gates.open(stage)
    gated.output("hello.mp4")
    job = gated.wait_for_state("hello", "done")

    # Intake asks the plugin once for each of its four stages.
    assert [call["stage"] for call in gates.calls()] == [
        *(["check"] * 5),
        *[stage for stage in ("tts", "audio", "render", "post") for _ in range(2)],
    ]
    assert gated.outputs() == ["hello.json", "hello.mp4", "hello.note.txt"]
    assert outcomes(gated, "hello") == [
        *[("intake", "cut short"), ("intake", "done")],
        *[("tts", "cut short"), ("tts", "done")],
        *[("audio", "cut short"), ("audio", "done")],
        *[("render", "cut short"), ("render", "done")],
        ("mux", "done"),
        *[("post", "cut short"), ("post", "done")],
        ("publish", "done"),
    ]
    assert {step["failures"] for step in gated.job("hello")["steps"]} == {0}
    report = json.loads((gated.outbox / "hello.json").read_text())
    assert report["id"] == job["id"]
    assert [stage["failures"] for stage in report["stages"]] == [0, 0, 0, 0]
    assert_nothing_is_left(gated)


def test_more_kills_than_worker_deaths_are_allowed_do_not_set_a_job_aside(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG + "[retry]\nattempts = 2\nworker_deaths = 2\n")
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    for number in range(1, 4):
        gates.wait("render", number)
        instance.stop(signal.SIGKILL)
        instance.start()
    gates.open("render")
    instance.output("hello.mp4")
    assert Counter(call["stage"] for call in gates.calls()) == {
        "check": 4,
        "tts": 1,
        "audio": 1,
        "render": 4,
        "post": 1,
    }


def test_sigterm_parks_a_job_and_the_next_start_goes_on(gated: Instance) -> None:
    gates = Gates(gated)
    gates.open("tts", "audio", "post")
    gated.start()
    gated.drop("hello.txt", "Hello.")
    pid = gates.wait("render")["pid"]
    assert gated.stop() == 0
    assert not lives(pid)
    assert outcomes(gated, "hello")[-1] in {("render", "running"), ("render", "cut short")}
    gates.open("render")
    gated.start()
    gated.output("hello.mp4")
    assert outcomes(gated, "hello")[3:5] == [("render", "cut short"), ("render", "done")]
    assert gated.job("hello")["steps"][3]["failures"] == 0


def test_a_daemon_killed_between_taking_and_intake_loses_and_doubles_nothing(new_instance: NewInstance) -> None:
    instance = new_instance(STUB)
    instance.plugin("stub", RENDER_STUB)
    jobs = instance.folder / "state" / "jobs"
    names = [f"job{number}" for number in range(4)]
    for count, name in enumerate(names):
        instance.start()
        instance.drop(f"{name}.txt", f"This is {name}.")
        kill_when(instance, lambda count=count: jobs.exists() and len(os.listdir(jobs)) > count)
    instance.start()
    for name in names:
        instance.output(f"{name}.mp4")
    wait_until(lambda: {job["state"] for job in instance.ask("jobs")["jobs"]} == {"done"}, "all to be done")
    assert sorted(job["name"] for job in instance.ask("jobs")["jobs"]) == names
    assert instance.outputs() == sorted(f"{name}.{suffix}" for name in names for suffix in ("json", "mp4"))
    assert_nothing_is_left(instance)


def test_a_daemon_killed_while_it_publishes_publishes_once(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG)
    gates = Gates(instance)
    gates.open(*STAGES)
    names = [f"job{number}" for number in range(4)]
    for number, name in enumerate(names):
        instance.start()
        if number:
            instance.wait_for_state(names[number - 1], "done")
        before = set(instance.outputs())
        instance.drop(f"{name}.txt", f"This is {name}.")
        # In turn: when the first file is staged, when two are, when the first one is shown, when the second is.
        # What is staged is soon shown; a test that is held up just then sees only that, and kills later.
        staged, shown = ((1, 1), (2, 1), (None, 1), (None, 2))[number]
        kill_when(instance, lambda before=before, least=(staged, shown): _come(instance.outputs(), before, *least))
    instance.start()
    for name in names:
        instance.output(f"{name}.mp4")
        instance.wait_for_state(name, "done")
        report = json.loads((instance.outbox / f"{name}.json").read_text())
        assert (report["name"], report["id"]) == (name, instance.job(name)["id"])
        assert (instance.outbox / f"{name}.note.txt").read_text() == f"This is {name}."
    expected = sorted(f"{name}.{suffix}" for name in names for suffix in ("json", "mp4", "note.txt"))
    assert instance.outputs() == expected
    assert Counter(call["stage"] for call in gates.calls()) == {**dict.fromkeys(STAGES, 4), "check": 16}
    assert_nothing_is_left(instance)


def _come(outputs: list[str], before: set[str], staged: int | None, shown: int) -> bool:
    """Whether so many files are staged, or so many shown that were not there before."""
    hidden = sum(name.startswith(".") for name in outputs)
    return (staged is not None and hidden >= staged) or len(set(outputs) - before) - hidden >= shown


def test_a_job_whose_worker_dies_three_times_fails_and_the_others_go_on(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'deadly'\n[retry]\nfirst_seconds = 0.05\n")
    deaths = instance.folder / "deaths"
    instance.plugin(
        "deadly",
        f"{DRAW}\n@hookimpl\ndef render(job, wav, ctx):\n"
        "    import os\n"
        "    if job.name == 'doomed':\n"
        f"        with open({str(deaths)!r}, 'a') as file:\n            file.write('x')\n"
        "        os.write(2, b'no way out\\n')\n"
        "        os._exit(3)\n"
        "    return draw(job, wav, ctx)\n",
    )
    instance.start()
    instance.drop("doomed.txt", "Doomed.")
    instance.drop("fine.txt", "Fine.")
    answer = instance.output("doomed.error.txt").read_text().splitlines()
    instance.output("fine.mp4")
    assert answer[0] == ("the worker of render plugin 'deadly' ended with exit code 3 (given up after 3 attempts)")
    assert "no way out" in answer
    assert deaths.read_text() == "xxx"
    job = instance.wait_for_state("doomed", "failed")
    assert [row for row in outcomes(instance, "doomed") if row[0] == "render"] == [("render", "died")] * 3
    assert job["error"] == answer[0]
    instance.drop("later.txt", "Later.")
    instance.output("later.mp4")
    assert instance.outputs() == ["doomed.error.txt", "fine.json", "fine.mp4", "later.json", "later.mp4"]


def test_a_passing_failure_is_tried_again_with_a_growing_delay(new_instance: NewInstance) -> None:
    instance = new_instance("[render]\nplugin = 'moody'\n[retry]\nfirst_seconds = 0.2\nfactor = 4\n")
    calls = instance.folder / "calls"
    instance.plugin(
        "moody",
        f"{DRAW}\n@hookimpl\ndef render(job, wav, ctx):\n"
        "    import time\n"
        f"    with open({str(calls)!r}, 'a') as file:\n        file.write(f'{{time.monotonic()}}\\n')\n"
        f"    if len(open({str(calls)!r}).readlines()) < 3:\n"
        "        raise TransientError('the moon is behind a cloud')\n"
        "    return draw(job, wav, ctx)\n",
    )
    instance.start()
    instance.drop("hello.txt", "Hello.")
    instance.output("hello.mp4")
    warnings = instance.events("stage failed; it will be tried again")
    assert [warning["error"] for warning in warnings] == ["render plugin 'moody': the moon is behind a cloud"] * 2
    first, second = (warning["seconds"] for warning in warnings)
    assert 0.1 <= first <= 0.3
    assert 0.6 <= second <= 1.0
    times = [float(line) for line in calls.read_text().split()]
    assert times[1] - times[0] >= 0.16
    assert times[2] - times[1] >= 0.64
    job = instance.wait_for_state("hello", "done")
    assert job["error"] is None
    render = [row for row in outcomes(instance, "hello") if row[0] == "render"]
    assert render == [("render", "transient"), ("render", "transient"), ("render", "done")]
    assert json.loads((instance.outbox / "hello.json").read_text())["stages"][2]["failures"] == 2


def test_progress_files_come_and_go_with_the_job(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG + "[outbox]\nprogress_files = true\n")
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    line = wait_until(lambda: _read(instance.outbox / "hello.progress.txt"), "the progress file")
    assert line == "gated: 25%, at the gate\n"
    gates.open("render")
    instance.output("hello.mp4")
    wait_until(lambda: instance.outputs() == ["hello.json", "hello.mp4", "hello.note.txt"], "the progress file to go")


def test_progress_files_of_a_killed_daemon_go(new_instance: NewInstance) -> None:
    instance = new_instance(CONFIG + "[outbox]\nprogress_files = true\n")
    gates = Gates(instance)
    gates.open("tts", "audio", "post")
    instance.start()
    instance.drop("hello.txt", "Hello.")
    gates.wait("render")
    instance.output("hello.progress.txt")
    instance.stop(signal.SIGKILL)
    assert [name for name in instance.outputs() if not name.startswith(".")] == ["hello.progress.txt"]
    instance.atenea("cancel", "hello")
    instance.start()
    assert instance.outputs() == []


def _read(path: Path) -> str:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ""
    return text if "25%" in text else ""
