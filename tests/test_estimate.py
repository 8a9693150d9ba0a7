"""How long a render will take, by the machine's own history."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stock import STEPS, Jobs

from atenea import ledger as ledger_module
from atenea.cli.lines import job_line
from atenea.config import Config, Paths
from atenea.estimate import Forecast, forecast, forecast_of, forecasts, frame_count, starts
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.queue_desk import NotRunning, QueueDesk
from atenea.rows import JobRow, RenderRow

DEFAULTS: dict[str, Any] = {"width": 512, "height": 512, "num_inference_steps": 40, "fps": 25, "device": "cuda"}


def past(seconds: float, samples: int = 16_000, **given: Any) -> RenderRow:
    """A finished render; one second of speech unless it is said otherwise."""
    options = {**DEFAULTS, **given}
    return RenderRow(job_id="a", plugin="hallo2", samples=samples, given=given, options=options, seconds=seconds)


def coming(samples: int = 16_000, **given: Any) -> RenderRow:
    return RenderRow(job_id="b", plugin="hallo2", samples=samples, given=given)


def test_frames_are_counted_as_the_video_has_them() -> None:
    assert [frame_count(samples, {"fps": 25}) for samples in (1, 640, 641, 16_000)] == [1, 1, 2, 25]
    assert frame_count(16_000, {"fps": 30}) == 30
    assert frame_count(16_000, {"fps": 12.5}) == 13
    assert frame_count(16_000, {}) == 25


@pytest.mark.parametrize("fps", [None, "fast", 0, -1, 10**400, float("inf"), float("nan"), [25]])
def test_a_rate_that_is_none_counts_as_the_usual_one(fps: Any) -> None:
    assert frame_count(16_000, {"fps": fps}) == 25


def test_without_history_only_the_frames_are_known() -> None:
    assert forecast(coming(32_000), []) == Forecast(frames=50, seconds=None)


def test_the_median_time_of_a_frame_times_the_frames() -> None:
    renders = [past(50.0), past(25.0), past(1000.0)]
    assert forecast(coming(), renders) == Forecast(frames=25, seconds=50.0)
    assert forecast(coming(160_000), renders) == Forecast(frames=250, seconds=500.0)
    assert forecast(coming(), [past(50.0, 32_000), past(50.0)]).seconds == 37.5


def test_another_rate_changes_the_frames_and_not_their_time() -> None:
    assert forecast(coming(fps=50), [past(25.0)]) == Forecast(frames=50, seconds=50.0)
    assert forecast(coming(), [past(50.0, fps=50)]) == Forecast(frames=25, seconds=25.0)


@pytest.mark.parametrize(
    "given", [{"width": 768, "height": 768}, {"num_inference_steps": 20}, {"device": "cuda:1"}, {"dtype": "float32"}]
)
def test_only_renders_with_the_same_pace_count(given: dict[str, Any]) -> None:
    assert forecast(coming(), [past(9.0, **given)]).seconds is None
    assert forecast(coming(**given), [past(9.0)]).seconds is None
    assert forecast(coming(**given), [past(9.0), past(5.0, **given)]).seconds == 5.0


def test_what_is_left_out_counts_as_its_default() -> None:
    assert forecast(coming(width=512, num_inference_steps=40), [past(5.0)]).seconds == 5.0
    assert forecast(coming(), [past(75.0, num_inference_steps=40), past(25.0)]).seconds == 50.0


def test_other_options_do_not_matter() -> None:
    assert forecast(coming(seed=1), [past(5.0, seed=2, pose_weight=0.5)]).seconds == 5.0


def test_of_defaults_that_changed_the_latest_count() -> None:
    faster = replace(past(2.0), options={**DEFAULTS, "num_inference_steps": 20})
    assert forecast(coming(), [faster, past(5.0)]).seconds == 2.0
    assert forecast(coming(), [past(5.0), faster]).seconds == 5.0


def test_the_last_twenty_count() -> None:
    assert forecast(coming(), [past(5.0)] * 20 + [past(500.0)] * 40).seconds == 5.0


# From the ledger


class History:
    """Jobs whose renders take as long as a test says."""

    def __init__(self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs = jobs
        self.now = 1_800_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)

    def to_render(self, name: str = "hello", *, samples: Any = 16_000, plugin: str = "hallo2", **given: Any) -> JobRow:
        needs = frozenset({"gpu" if plugin == "hallo2" else "cpu"})
        render = replace(STEPS[2], plugin=plugin, options=given, needs=needs)
        job = self.jobs.planned(name, (*STEPS[:2], render, *STEPS[3:]))
        self.jobs.complete(job)
        self.jobs.complete(job, samples=samples)
        return self.jobs.now(job)

    def rendered(self, seconds: float, **more: Any) -> JobRow:
        job = self.to_render(**more)
        given = self.jobs.ledger.steps(job.id)[3].options
        attempt = self.jobs.begin(job)
        self.now += seconds
        step = self.jobs.ledger.steps(job.id)[3]
        self.jobs.ledger.complete(attempt, job, step, {"options": {**DEFAULTS, **given}})
        return self.jobs.now(job)

    def finished(self, seconds: float, **more: Any) -> JobRow:
        job = self.rendered(seconds, **more)
        self.jobs.complete(job)
        self.now += 1
        return self.jobs.finish(job)


@pytest.fixture
def history(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> History:
    return History(jobs, monkeypatch)


def test_a_job_has_a_forecast_from_its_speech_to_its_video(history: History, db: Ledger, jobs: Jobs) -> None:
    history.finished(50.0)
    job = jobs.planned()
    jobs.complete(job)
    assert forecast_of(db, job.id) is None
    jobs.complete(job, samples=16_000)
    assert forecast_of(db, job.id) == Forecast(25, None)  # of another plugin
    job = history.to_render(samples=32_000)
    assert forecast_of(db, job.id) == Forecast(50, 100.0)
    jobs.begin(job)
    assert forecast_of(db, job.id) == Forecast(50, 100.0)
    jobs.complete(job)
    assert forecast_of(db, job.id) is None
    assert forecast_of(db, "00000000000") is None


def test_many_jobs_at_once(history: History, db: Ledger) -> None:
    history.finished(50.0)
    history.finished(5.0, plugin="preview")
    first, second, third = (history.to_render(plugin=plugin) for plugin in ("hallo2", "preview", "upstream"))
    assert forecasts(db, db.next_renders(10)) == {
        first.id: Forecast(25, 50.0),
        second.id: Forecast(25, 5.0),
        third.id: Forecast(25, None),
    }
    assert [render.job_id for render in db.next_renders(2)] == [first.id, second.id]


def test_renders_take_turns_on_the_gpu(history: History, db: Ledger, jobs: Jobs) -> None:
    history.finished(50.0)
    first, second, third = (history.to_render(samples=samples) for samples in (16_000, 32_000, 16_000))

    def told(running: dict[str, float | None], gpus: int = 1) -> dict[str, float]:
        return starts(db.active(), forecasts(db, db.next_renders(10)), running, gpus, history.now)

    assert told({first.id: 20.0}) == {second.id: 20.0, third.id: 120.0}
    assert told({first.id: 20.0, second.id: 70.0}, gpus=2) == {third.id: 20.0}
    # One of them starts now, or there is no telling when.
    assert told({}) == told({}, gpus=0) == told({first.id: 20.0}, gpus=2) == {}
    assert told({first.id: None}) == told({first.id: 20.0, second.id: None}, gpus=2) == {}
    # Others do not count: one on the CPU, one that is rendered, one that waits for its next attempt.
    history.rendered(9.0)
    history.to_render(plugin="preview")
    later = history.to_render()
    db.try_again(jobs.begin(later), later, db.steps(later.id)[3], error="busy", until=history.now + 60, died=False)
    last = history.to_render()
    assert told({first.id: 20.0}) == {second.id: 20.0, third.id: 120.0, last.id: 170.0}


def test_behind_what_nobody_knows_no_start_is_told(history: History, db: Ledger, jobs: Jobs) -> None:
    history.finished(50.0)
    first, second = history.to_render(), history.to_render()
    unknown = history.to_render(num_inference_steps=7)
    behind = history.to_render()

    def told() -> set[str]:
        return starts(db.active(), forecasts(db, db.next_renders(10)), {first.id: 20.0}, 1, history.now).keys()

    assert told() == {second.id, unknown.id}
    db.cancel(unknown)
    assert told() == {second.id, behind.id}
    jobs.planned("urgent", priority=1)  # its speech is still to be made
    assert told() == set()


def test_the_list_tells_when_a_render_starts(history: History, db: Ledger, tmp_path: Path) -> None:
    class Running(NotRunning):
        def slots(self, need: str) -> int:
            return {"gpu": 1}[need]

        def progress(self, job_id: str) -> Progress | None:
            return Progress("render", "hallo2", forecast=Forecast(25, 50.0)) if job_id == first.id else None

    history.finished(50.0)
    first, second = history.to_render(), history.to_render()
    desk = QueueDesk(Config(paths=Paths(state=tmp_path)), db, Running())
    running, waiting, _ = desk.jobs()["jobs"]
    assert (running["id"], running["starts_in"], waiting["id"]) == (first.id, None, second.id)
    assert 0 < waiting["starts_in"] <= 50
    assert desk.show(second.id)["starts_in"] <= 50
    assert job_line(waiting | {"starts_in": 302.0}).split("\t")[3:] == ["", "~50 s", "starts in about 5 min 2 s"]
    db.pause(True)
    assert [view["starts_in"] for view in desk.jobs()["jobs"]] == [None, None, None]


def test_the_commands_tell_it(history: History, db: Ledger, tmp_path: Path) -> None:
    history.finished(50.0)
    job = history.to_render()
    desk = QueueDesk(Config(paths=Paths(state=tmp_path)), db, NotRunning())
    assert [view["render_seconds"] for view in desk.jobs()["jobs"]] == [50.0, None]
    assert desk.show(job.id)["render_seconds"] == 50.0
    assert desk.cancel(job.id)["job"]["render_seconds"] is None


def test_a_render_that_went_on_after_an_end_says_nothing_of_its_pace(history: History, db: Ledger, jobs: Jobs) -> None:
    def finish(job: JobRow) -> None:
        jobs.complete(job, options=DEFAULTS)
        jobs.complete(job)
        jobs.finish(job)

    cut = history.to_render()
    jobs.begin(cut)
    history.now += 100
    db.cut_short()
    history.now += 5
    finish(cut)
    failed = history.to_render()
    db.try_again(jobs.begin(failed), failed, db.steps(failed.id)[3], error="busy", until=0, died=False)
    finish(failed)
    assert db.past_renders("hallo2", limit=10, within=10) == []
    history.finished(50.0)
    assert [render.seconds for render in db.past_renders("hallo2", limit=10, within=10)] == [50.0]


def test_the_past_is_looked_at_from_its_end_and_no_further_than_told(history: History, db: Ledger) -> None:
    for seconds in (1.0, 2.0, 3.0):
        history.finished(seconds)
    history.finished(9.0, plugin="preview")

    def seconds_of(**bounds: int) -> list[float | None]:
        return [render.seconds for render in db.past_renders("hallo2", **bounds)]

    assert seconds_of(limit=10, within=10) == [3.0, 2.0, 1.0]
    assert seconds_of(limit=2, within=10) == [3.0, 2.0]
    assert seconds_of(limit=10, within=4) == [3.0, 2.0, 1.0]
    assert seconds_of(limit=10, within=2) == [3.0]
    assert seconds_of(limit=10, within=1) == []


def test_a_render_of_a_job_that_goes_on_is_not_in_the_past_yet(history: History, db: Ledger) -> None:
    history.rendered(4.0)
    assert db.past_renders("hallo2", limit=10, within=10) == []


@pytest.mark.parametrize("samples", [None, "many", 0, -5, 1.5, [1], 10**30, float("nan")])
def test_what_is_no_number_of_samples_gives_no_forecast(history: History, db: Ledger, samples: Any) -> None:
    assert forecast_of(db, history.to_render(samples=samples).id) is None
    history.finished(50.0, samples=samples)
    assert db.past_renders("hallo2", limit=10, within=10) == []


@pytest.mark.parametrize("result", [{}, {"options": None}, {"options": [512]}, {"options": {"fps": float("inf")}}])
def test_a_render_whose_options_are_not_known_says_nothing(
    history: History, db: Ledger, jobs: Jobs, result: dict[str, Any]
) -> None:
    job = history.to_render()
    attempt = jobs.begin(job)
    history.now += 50
    db.complete(attempt, job, db.steps(job.id)[3], result)
    jobs.complete(job)
    jobs.finish(job)
    assert db.past_renders("hallo2", limit=10, within=10) == []
    history.finished(50.0)
    assert len(db.past_renders("hallo2", limit=10, within=10)) == 1


def test_no_query_reads_a_whole_table(db: Ledger, tmp_path: Path) -> None:
    """However many jobs there are: all is found by an index, in its order, as far as the limits go."""
    assert "SEARCH jobs USING INDEX jobs_finished (finished>?)" in plan(
        tmp_path, ledger_module.PAST_RENDERS, 999, "hallo2", 60
    )
    active = "SELECT id, position FROM jobs WHERE finished IS NULL ORDER BY priority DESC, id LIMIT ?"
    assert "SCAN jobs USING INDEX jobs_active" in plan(tmp_path, ledger_module.NEXT_RENDERS.format(jobs=active), 1000)
    one = "SELECT id, position FROM jobs WHERE id = ? AND finished IS NULL"
    plan(tmp_path, ledger_module.NEXT_RENDERS.format(jobs=one), "00000000000")


def plan(folder: Path, query: str, *values: object) -> list[str]:
    """How SQLite carries the query out, without a look at a whole table and without sorting."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as file:
        lines = [row[3] for row in file.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    scans = [line for line in lines if line.startswith("SCAN") and not line.endswith((" job", "jobs_active"))]
    assert (scans, [line for line in lines if "B-TREE" in line]) == ([], [])
    return lines
