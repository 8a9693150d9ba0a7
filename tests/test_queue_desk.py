"""What the commands ask of the queue, with a real ledger and with a daemon's part played."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from stock import Jobs

from atenea import queue_desk
from atenea.config import Config, Paths
from atenea.errors import ExitCode, UsageError
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.queue_desk import NotRunning, QueueDesk
from atenea.report import iso_time


class Daemon:
    """What a running daemon knows and does."""

    def __init__(self) -> None:
        self.steps: dict[str, Progress] = {}
        self.stopped: list[str] = []
        self.troubles: dict[str, str] = {}
        self.woken = 0

    def progress(self, job_id: str) -> Progress | None:
        return self.steps.get(job_id)

    def trouble(self, job_id: str) -> str | None:
        return self.troubles.get(job_id)

    def slots(self, need: str) -> int:
        return {"gpu": 1}.get(need, 2)

    def stop_step(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def wake(self) -> None:
        self.woken += 1

    def status(self) -> dict[str, Any]:
        return {"daemon": True}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(paths=Paths(state=tmp_path / "state", outbox=tmp_path / "outbox"))


@pytest.fixture
def desk(config: Config, db: Ledger, daemon: Daemon) -> QueueDesk:
    return QueueDesk(config, db, daemon)


@pytest.fixture
def alone(config: Config, db: Ledger) -> QueueDesk:
    """The desk of a command when no daemon runs."""
    return QueueDesk(config, db, NotRunning())


def refusal(desk: QueueDesk, command: str, **arguments: Any) -> str:
    with pytest.raises(UsageError) as caught:
        desk.answer(command, arguments)
    assert caught.value.exit_code is ExitCode.USAGE
    return str(caught.value)


def test_a_job_that_the_daemon_cannot_go_on_with_says_why(desk: QueueDesk, daemon: Daemon, jobs: Jobs) -> None:
    job = jobs.planned()
    daemon.troubles[job.id] = "No space left on device"
    assert [view["error"] for view in desk.answer("jobs", {})["jobs"]] == ["No space left on device"]
    assert desk.answer("show", {"job": job.id})["error"] == "No space left on device"
    daemon.troubles.clear()
    assert desk.answer("show", {"job": job.id})["error"] is None


def test_a_job_that_is_half_published_is_not_cancelled(desk: QueueDesk, db: Ledger, jobs: Jobs) -> None:
    job = jobs.to_publish()
    db.publish(job, stem="hello", hashes={".mp4": "h"})
    assert refusal(desk, "cancel", job=job.id).endswith("is finished and being published; there is nothing to cancel")


def test_a_list_has_the_unfinished_jobs_then_the_latest_finished(desk: QueueDesk, alone: QueueDesk, jobs: Jobs) -> None:
    finished = [jobs.finish(jobs.to_publish(f"done{n}")) for n in range(3)]
    waiting, urgent = jobs.planned("a"), jobs.planned("b", priority=1)
    answer = desk.answer("jobs", {"limit": 2})
    assert [job["id"] for job in answer["jobs"]] == [urgent.id, waiting.id, finished[2].id, finished[1].id]
    assert (answer["daemon"], answer["paused"]) == (True, False)
    answer = alone.answer("jobs", {})
    assert (answer["daemon"], len(answer["jobs"])) == (False, 5)


def test_a_job_in_the_list(desk: QueueDesk, jobs: Jobs, daemon: Daemon, db: Ledger) -> None:
    job = jobs.take("hello", preset="news")
    jobs.plan(job, priority=3)
    jobs.begin(job)
    job = jobs.now(job)
    expected = {
        "id": job.id,
        "name": "hello",
        "state": "tts",
        "running": False,
        "stage": None,
        "plugin": None,
        "fraction": None,
        "progress": "",
        "seconds_left": None,
        "frames_per_second": None,
        "render_seconds": None,
        "starts_in": None,
        "priority": 3,
        "preset": "news",
        "taken": iso_time(job.created),
        "started": iso_time(job.started),
        "finished": None,
        "next_attempt": None,
        "waiting_for": [],
        "error": None,
    }
    assert desk.answer("jobs", {})["jobs"] == [expected]
    progress = daemon.steps[job.id] = Progress("tts", "espeak")
    running = expected | {"running": True, "stage": "tts", "plugin": "espeak", "fraction": 0.0}
    assert desk.answer("jobs", {})["jobs"] == [running]
    progress.update(0.333333, "speaking")
    (shown,) = desk.answer("jobs", {})["jobs"]
    assert (shown["fraction"], shown["progress"], shown["seconds_left"]) == (0.3333, "speaking", None)
    progress.update(0.5, "speaking")
    (shown,) = desk.answer("jobs", {})["jobs"]
    assert shown["seconds_left"] >= 0
    assert shown["frames_per_second"] is None
    del daemon.steps[job.id]
    until = time.time() + 100
    db.try_again(jobs.begin(job), job, db.steps(job.id)[1], error="busy", until=until, died=False)
    assert desk.answer("jobs", {})["jobs"] == [expected | {"error": "busy", "next_attempt": iso_time(until)}]


def test_a_job_that_waits_says_for_what(desk: QueueDesk, jobs: Jobs, db: Ledger) -> None:
    job = jobs.take()
    db.put_off(jobs.begin(job), job, until=5, waiting={"b.png": None, "a.wav": [1, 2, 3, 4, 5]})
    (shown,) = desk.answer("jobs", {})["jobs"]
    assert shown["waiting_for"] == ["a.wav", "b.png"]


def test_one_job_in_full(desk: QueueDesk, jobs: Jobs, db: Ledger, config: Config) -> None:
    job = jobs.to_publish()
    db.publish(job, stem="hello-2", hashes={".mp4": "h", ".json": "i"})
    job = jobs.finish(job)
    shown = desk.answer("show", {"job": "hello"})
    assert shown["id"] == job.id
    assert shown["file"] == "hello.txt"
    assert shown["folder"] == str(config.jobs / job.id)
    assert shown["outputs"] == [f"{config.paths.outbox}/hello-2.json", f"{config.paths.outbox}/hello-2.mp4"]
    assert shown["details"] is None
    assert shown["finished"] == iso_time(job.finished)
    assert [step["stage"] for step in shown["steps"]] == ["intake", "tts", "audio", "render", "mux", "publish"]
    assert shown["steps"][1] == {
        "stage": "tts",
        "plugin": "espeak",
        "needs": ["cpu"],
        "options": {"voice": "en"},
        "done": True,
        "failures": 0,
        "seconds": shown["steps"][1]["seconds"],
        "waited": shown["steps"][1]["waited"],
        "ran": shown["steps"][1]["ran"],
    }
    assert shown["steps"][4]["plugin"] is None
    assert shown["steps"][5]["done"] is True
    assert shown["steps"][5]["seconds"] is not None
    attempt = db.attempts(job.id)[1]
    assert shown["attempts"][1] == {
        "stage": "tts",
        "plugin": "espeak",
        "started": iso_time(attempt.started),
        "ended": iso_time(attempt.ended),
        "outcome": "done",
        "error": None,
    }
    json.dumps(shown, allow_nan=False)


def test_options_are_shown_as_the_plugin_understood_them(desk: QueueDesk, jobs: Jobs) -> None:
    job = jobs.planned()
    jobs.complete(job, options={"voice": "en", "rate": 170})
    attempt = jobs.begin(job)
    shown = desk.answer("show", {"job": job.id})
    assert [step["done"] for step in shown["steps"]] == [True, True, False, False, False, False]
    assert shown["steps"][1]["options"] == {"voice": "en", "rate": 170}
    assert shown["attempts"][2]["outcome"] == "running"
    assert attempt


def test_a_job_without_folder_or_files_shows_none(desk: QueueDesk, jobs: Jobs, db: Ledger) -> None:
    job = jobs.failed()
    db.cleaned([job.id])
    shown = desk.answer("show", {"job": job.id})
    assert (shown["folder"], shown["outputs"], shown["error"]) == (None, [], "it broke")


@pytest.mark.parametrize("command", ["show", "cancel", "retry"])
def test_a_job_that_is_not_there_is_named(desk: QueueDesk, command: str) -> None:
    assert refusal(desk, command, job="nobody") == "nobody: there is no such job; see: atenea jobs"


def test_cancelling_a_job_that_rests(desk: QueueDesk, jobs: Jobs, daemon: Daemon) -> None:
    job = jobs.planned()
    assert desk.answer("cancel", {"job": "hello"})["job"]["state"] == "cancelled"
    assert (daemon.stopped, daemon.woken) == ([], 1)
    assert refusal(desk, "cancel", job="hello") == f"hello ({job.id}) is cancelled already; there is nothing to cancel"


def test_cancelling_a_job_that_runs_stops_its_step(desk: QueueDesk, jobs: Jobs, daemon: Daemon) -> None:
    job = jobs.planned()
    daemon.steps[job.id] = Progress("tts", "espeak")
    desk.answer("cancel", {"job": job.id})
    assert daemon.stopped == [job.id]
    assert not jobs.now(job).is_final


def test_a_job_that_is_being_published_cannot_be_cancelled(desk: QueueDesk, jobs: Jobs, daemon: Daemon) -> None:
    job = jobs.to_publish()
    daemon.steps[job.id] = Progress("publish", "")
    assert refusal(desk, "cancel", job="hello") == (
        f"hello ({job.id}) is finished and being published; there is nothing to cancel"
    )
    assert daemon.stopped == []


def test_retrying(desk: QueueDesk, alone: QueueDesk, jobs: Jobs, daemon: Daemon) -> None:
    job = jobs.failed()
    assert desk.answer("retry", {"job": "hello"})["job"]["state"] == "queued"
    assert daemon.woken == 1
    assert "only failed and cancelled jobs can be tried again" in refusal(desk, "retry", job=job.id)
    alone.answer("cancel", {"job": "hello"})
    assert alone.answer("retry", {"job": "hello"})["job"]["state"] == "queued"


def test_a_name_means_the_newest_job_of_it(desk: QueueDesk, jobs: Jobs) -> None:
    older, newer = jobs.planned(), jobs.planned()
    desk.answer("cancel", {"job": "hello"})
    assert (jobs.now(newer).state, jobs.now(older).state) == ("cancelled", "queued")


def test_pausing_and_resuming(desk: QueueDesk, daemon: Daemon, db: Ledger) -> None:
    assert desk.answer("pause", {}) == {"paused": True}
    assert db.paused
    assert desk.answer("jobs", {})["paused"] is True
    assert desk.answer("resume", {}) == {"paused": False}
    assert not db.paused
    assert daemon.woken == 1


def test_what_a_file_of_the_inbox_has_become(desk: QueueDesk, alone: QueueDesk, jobs: Jobs) -> None:
    job = jobs.take(source={"device": 3, "inode": 4, "readings": []})
    answer = desk.answer("taken", {"device": 3, "inode": 4})
    assert (answer["daemon"], answer["job"]["id"]) == (True, job.id)
    assert alone.answer("taken", {"device": 3, "inode": 5}) == {"daemon": False, "job": None}


def test_waking(desk: QueueDesk, alone: QueueDesk, daemon: Daemon) -> None:
    assert desk.answer("wake", {}) == {}
    assert daemon.woken == 1
    assert alone.answer("wake", {}) == {}


@pytest.mark.parametrize("command", ["", "answer", "_find", "config", "__init__"])
def test_only_the_commands_can_be_called(desk: QueueDesk, command: str) -> None:
    assert refusal(desk, command) == f"{command}: unknown command of the control socket"


def test_wrong_arguments_are_refused(desk: QueueDesk) -> None:
    assert refusal(desk, "show") == "show: job: Missing required argument"
    assert refusal(desk, "show", job=[1]) == "show: job: Input should be a valid string"
    assert refusal(desk, "jobs", limit="3") == "jobs: limit: Input should be a valid integer"
    assert refusal(desk, "jobs", limit=1 << 70) == f"jobs: limit: {1 << 70} is not from 0 to 1,000,000"
    assert refusal(desk, "pause", x=1) == "pause: x: Unexpected keyword argument"


def test_a_list_of_very_many_jobs_is_cut(desk: QueueDesk, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_desk, "_NEXT", 2)
    first, second, _third = (jobs.take(name) for name in ("first", "second", "third"))
    done = jobs.failed("done")
    answer = desk.answer("jobs", {})
    assert [job["id"] for job in answer["jobs"]] == [first.id, second.id, done.id]
    assert answer["more"] == 1


def test_a_file_system_that_numbers_its_files_beyond_sqlites_integers(desk: QueueDesk, jobs: Jobs) -> None:
    inode = (1 << 64) - 4096
    job = jobs.take(source={"device": 1, "inode": inode, "readings": []})
    assert desk.answer("taken", {"device": 1, "inode": inode})["job"]["id"] == job.id
    assert desk.answer("taken", {"device": 2, "inode": inode})["job"] is None
