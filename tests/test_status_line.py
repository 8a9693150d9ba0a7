"""The line of `systemctl status`."""

from __future__ import annotations

from stock import Jobs

from atenea.estimate import Forecast
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.status_line import status_line


def test_nothing_runs(db: Ledger, jobs: Jobs) -> None:
    assert status_line({}, db) == "idle; 0 waiting"
    jobs.take()
    assert status_line({}, db) == "idle; 1 waiting"
    db.pause(paused=True)
    assert status_line({}, db) == "idle; 1 waiting, paused"


def test_what_runs_with_its_stage_and_the_time_left(db: Ledger, jobs: Jobs) -> None:
    one, two = jobs.take("a\nWATCHDOG=1"), jobs.take("caf\udce9")
    jobs.take("waits")
    progress = Progress("render", "hallo2", forecast=Forecast(frames=100, seconds=125.0))
    assert status_line({one.id: progress, two.id: Progress("mux", "", 0.5)}, db) == (
        "a_WATCHDOG=1: render by hallo2 0%, about 2 min 5 s left; caf_: mux 50%; 1 waiting"
    )


def test_of_many_some_are_told(db: Ledger, jobs: Jobs) -> None:
    running = {jobs.take(name).id: Progress("tts", "espeak") for name in "abcde"}
    told = "a: tts by espeak 0%; b: tts by espeak 0%; c: tts by espeak 0%; 2 more; 0 waiting"
    assert status_line(running, db) == told
