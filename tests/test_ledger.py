"""The only memory: every transition of a job, in real SQLite files."""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from faults.small_disk import fill, small_disk
from stock import STEPS, Jobs

from atenea import ledger_file
from atenea.errors import AteneaError, ExitCode, UsageError
from atenea.job_record import RECORD
from atenea.ledger import Ledger
from atenea.migrations import MIGRATIONS
from atenea.rows import MUX, PUBLISH, JobRow, Step

# Ids


def test_ids_sort_by_time_and_never_repeat(db: Ledger) -> None:
    ids = db.new_ids(500) + db.new_ids(1) + db.new_ids(500)
    assert ids == sorted(ids)
    assert len(set(ids)) == 1001
    assert {len(job_id) for job_id in ids} == {11}


def test_ids_go_on_when_the_clock_goes_back(db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = db.new_ids(3)
    jobs.take()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    after = db.new_ids(3)
    assert before + after == sorted({*before, *after})


def test_ids_go_on_after_a_restart_with_the_clock_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(tmp_path / "l")
    taken = Jobs(first).take()
    first.close()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    second = Ledger(tmp_path / "l")
    assert second.new_ids(1)[0] > taken.id
    second.close()


def test_ids_are_given_once_to_several_threads(db: Ledger) -> None:
    given: list[str] = []
    in_threads(4, lambda _: given.extend(db.new_ids(200)))
    assert len(set(given)) == 800


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run `work` in several threads at once; what one raises is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:  # a thread's exception would be lost
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# Taking


def test_a_taken_job_is_queued_for_intake(db: Ledger, jobs: Jobs) -> None:
    before = time.time()
    job = jobs.take("hello", preset="news", fingerprint="abc", refusal="too much")
    assert (job.name, job.state, job.preset, job.needs, job.position) == ("hello", "queued", "news", "intake", 0)
    assert (job.relative, job.fingerprint, job.refusal) == ("hello.txt", "abc", "too much")
    assert (job.waiting, job.outputs, job.publishing, job.content) == ({}, {}, None, None)
    assert before <= job.created <= time.time()
    assert not job.is_final
    assert [(step.stage, step.needs, step.result) for step in db.steps(job.id)] == [("intake", {"intake"}, None)]
    assert db.knows(job.id)
    assert not db.knows("00000000000")


def test_names_that_are_not_utf8_survive(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take("caf\udce9")
    assert job.name == "caf_"
    assert job.relative == "caf\udce9.txt"
    assert db.find("caf\udce9") == job


def test_a_batch_is_entered_whole_or_not_at_all(db: Ledger, jobs: Jobs) -> None:
    jobs.take("first")
    row = replace(_taken_row(db), job_id=db.new_ids(1)[0])
    with pytest.raises(sqlite3.IntegrityError):
        db.add_taken([row, row])
    assert [job.name for job in db.active()] == ["first"]
    db.add_taken([row])
    assert db.knows(row.job_id)


def _taken_row(db: Ledger):  # type: ignore[no-untyped-def]
    from atenea.inbox.taken import TakenRow

    return TakenRow("x", "second.txt", None, "second", "f", False, {"device": 1, "inode": 2, "readings": []})


def test_unfinished_copies_are_remembered_until_they_are_finished(db: Ledger, jobs: Jobs) -> None:
    source = {"device": 1, "inode": 2, "readings": [["a.txt", [1, 2, 3, 4, 5]]]}
    job = jobs.take("a", copied=True, source=source)
    jobs.take("b")
    (row,) = db.unfinished_copies()
    assert (row.job_id, row.relative, row.copied, row.source, row.fingerprint) == (job.id, "a.txt", True, source, "f")
    db.copy_finished(job.id)
    assert db.unfinished_copies() == []


# Finding


def test_a_job_is_found_by_its_id_or_as_the_newest_of_its_name(db: Ledger, jobs: Jobs) -> None:
    older, newer = jobs.take("hello"), jobs.take("hello")
    assert db.find("hello") == newer
    assert db.find(older.id) == older
    assert db.find("nobody") is None
    assert db.find("line\nbreak") is None
    assert db.find(jobs.take("line\nbreak").relative.removesuffix(".txt")) == jobs.now(db.find("line_break") or "")


def test_a_job_is_known_by_the_file_it_was(db: Ledger, jobs: Jobs) -> None:
    jobs.take(source={"device": 1, "inode": 5, "readings": []})
    newer = jobs.take(source={"device": 1, "inode": 5, "readings": []})
    assert db.taken_from(1, 5) == newer
    assert db.taken_from(2, 5) is None
    assert db.taken_from(1, 6) is None


def test_lists_are_in_the_order_of_service(db: Ledger, jobs: Jobs) -> None:
    first, second = jobs.planned("first"), jobs.planned("second")
    urgent = jobs.planned("urgent", priority=5)
    taken = jobs.take("taken")
    assert db.active() == [urgent, first, second, taken]
    assert db.ready("cpu", time.time(), 2) == [urgent, first]
    assert db.ready("intake", time.time(), 9) == [taken]
    assert db.ready("gpu", time.time(), 9) == []
    assert sorted(db.wanted_needs()) == ["cpu", "intake"]
    assert db.counts() == {"queued": 4}


def test_finished_jobs_are_listed_with_the_latest_first(db: Ledger, jobs: Jobs) -> None:
    done = [jobs.finish(jobs.to_publish(f"job{n}")) for n in range(3)]
    assert db.finished(2) == [done[2], done[1]]
    assert db.active() == []
    assert db.counts() == {}
    assert db.wanted_needs() == []


# A job's way


def test_the_way_to_done(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    jobs.plan(job, priority=4)
    job = jobs.now(job)
    assert (job.state, job.position, job.needs, job.priority) == ("queued", 1, "cpu", 4)
    for position, state in enumerate(["tts", "audio", "render", "post"], 1):
        attempt = jobs.begin(job)
        assert jobs.now(job).state == state
        db.complete(attempt, job, db.steps(job.id)[position], {"artifact": f"work/{position}"})
        assert jobs.now(job).position == position + 1
    assert jobs.now(job).needs == "publish"
    db.publish(jobs.now(job), stem="hello", hashes={".mp4": "h"})
    job = jobs.now(job)
    assert (job.stem, job.publishing, job.outputs) == ("hello", {".mp4": "h"}, {})
    job = jobs.finish(job)
    assert (job.state, job.needs, job.publishing, job.outputs) == ("done", None, None, {".mp4": "h"})
    assert job.is_final
    assert job.created <= (job.started or 0) <= (job.finished or 0)
    assert [step.result for step in db.steps(job.id)[1:5]] == [{"artifact": f"work/{n}"} for n in range(1, 5)]
    assert [(a.stage, a.plugin, a.outcome) for a in db.attempts(job.id)] == [
        ("intake", "", "done"),
        ("tts", "espeak", "done"),
        ("audio", "wav", "done"),
        ("render", "preview", "done"),
        ("mux", "", "done"),
        ("publish", "", "done"),
    ]
    assert all(a.ended is not None and a.started <= a.ended for a in db.attempts(job.id))


def test_a_steps_seconds_are_those_of_the_attempt_that_did_it(
    db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.planned()
    step = db.steps(job.id)[1]
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    db.try_again(jobs.begin(job), job, step, error="slow", until=0, died=False)
    attempt = jobs.begin(job)
    now = 1002.5
    db.complete(attempt, job, step, {})
    assert db.steps(job.id)[1].seconds == 2.5
    attempt = jobs.begin(job)
    now = 900.0
    db.complete(attempt, jobs.now(job), db.steps(job.id)[2], {})
    assert db.steps(job.id)[2].seconds == 0.0


def test_started_is_when_the_first_step_began(db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.take()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    jobs.plan(job)
    monkeypatch.setattr(time, "time", lambda: 2000.0)
    jobs.begin(job)
    assert jobs.now(job).started == 1000.0


# Plans


def kept(db: Ledger, job: JobRow) -> list[str]:
    """The stages that are done already."""
    return [step.stage for step in db.steps(job.id)[1:] if step.result is not None]


def rewritten(jobs: Jobs, job: JobRow) -> None:
    """The original changed, so that intake runs again."""
    jobs.ledger.start_over(jobs.now(job), fingerprint="g", until=0)


def test_a_plan_that_is_the_same_keeps_what_is_done(db: Ledger, jobs: Jobs) -> None:
    job = jobs.to_publish()
    before = db.steps(job.id)[1:]
    rewritten(jobs, job)
    jobs.plan(job)
    assert db.steps(job.id)[1:] == before
    assert jobs.now(job).needs == "publish"


def test_a_plan_keeps_only_what_comes_before_the_first_difference(db: Ledger, jobs: Jobs) -> None:
    tts, audio, render, *rest = STEPS
    job = jobs.to_publish()
    rewritten(jobs, job)
    jobs.plan(job, (tts, audio, replace(render, options={"fps": 30}), *rest))
    assert kept(db, job) == ["tts", "audio"]
    assert (jobs.now(job).position, jobs.now(job).needs) == (3, "cpu")
    assert [step.position for step in db.steps(job.id)] == [0, 1, 2, 3, 4, 5]
    assert db.steps(job.id)[3].options == {"fps": 30}


@pytest.mark.parametrize("change", [{"plugin": "openai"}, {"options": {"voice": "de"}}])
def test_a_plan_whose_first_stage_differs_keeps_nothing(db: Ledger, jobs: Jobs, change: dict[str, object]) -> None:
    job = jobs.to_publish()
    rewritten(jobs, job)
    jobs.plan(job, (replace(STEPS[0], **change), *STEPS[1:]))  # type: ignore[arg-type]
    assert kept(db, job) == []


def test_a_plan_for_other_content_keeps_nothing(db: Ledger, jobs: Jobs) -> None:
    job = jobs.to_publish()
    rewritten(jobs, job)
    jobs.plan(job, inputs="other")
    assert kept(db, job) == []
    assert jobs.now(job).position == 1


def test_common_steps_end_where_the_plans_part_done_or_not(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    result = {"inputs": json.loads(jobs.now(job).content or "")["inputs"]}
    job = jobs.now(job)

    def common(steps: Sequence[Step], result: Mapping[str, object] = result) -> list[str]:
        return [step.stage for step in db.common_steps(job, steps, result)]

    assert common(STEPS) == ["tts", "audio", "render", "mux", "publish"]
    assert common([*STEPS[:2], replace(STEPS[2], options={"fps": 30}), *STEPS[3:]]) == ["tts", "audio"]
    assert common(STEPS, {"inputs": "other"}) == []


def test_a_shorter_plan_forgets_the_steps_that_are_left_over(db: Ledger, jobs: Jobs) -> None:
    poster = replace(STEPS[0], stage="post", plugin="poster", options={})
    job = jobs.planned(steps=(*STEPS[:-1], poster, PUBLISH))
    for _ in range(5):
        jobs.complete(job)
    rewritten(jobs, job)
    jobs.plan(job)
    assert [step.stage for step in db.steps(job.id)] == ["intake", "tts", "audio", "render", "mux", "publish"]
    assert kept(db, job) == ["tts", "audio", "render", "mux"]


def test_what_was_about_to_be_published_is_so_only_while_the_plan_is_the_same(db: Ledger, jobs: Jobs) -> None:
    job = jobs.to_publish()
    db.publish(job, stem="hello", hashes={".mp4": "h"})
    db.cancel(jobs.now(job))
    db.retry(jobs.now(job))
    jobs.plan(job)
    assert jobs.now(job).publishing == {".mp4": "h"}
    rewritten(jobs, job)
    jobs.plan(job, inputs="other")
    assert jobs.now(job).publishing is None


def test_work_folders_of_post_stages_are_apart(db: Ledger, jobs: Jobs) -> None:
    poster = replace(MUX, stage="post", plugin="poster")
    job = jobs.planned(steps=(*STEPS[:-1], poster, poster, PUBLISH))
    assert [step.workdir for step in db.steps(job.id)][1:] == [
        "work/tts",
        "work/audio",
        "work/render",
        "work/mux",
        "work/post-5",
        "work/post-6",
        "work/publish",
    ]


# Waiting, failing, starting over


def test_putting_off_is_no_attempt(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    until = time.time() + 60
    db.put_off(jobs.begin(job), job, until=until, waiting={"a.png": [1, 2, 3, 4, 5], "b.png": None})
    job = jobs.now(job)
    assert (job.state, job.not_before, job.waiting) == ("queued", until, {"a.png": [1, 2, 3, 4, 5], "b.png": None})
    assert db.attempts(job.id) == []
    assert db.ready("intake", until - 1, 9) == []
    assert db.ready("intake", until, 9) == [job]
    assert db.next_due(until - 1) == until
    assert db.next_due(until) is None
    jobs.plan(job)
    assert (jobs.now(job).waiting, jobs.now(job).not_before) == ({}, 0)


def test_starting_over_reads_the_original_again(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    until = time.time() + 1
    db.start_over(job, fingerprint="new", until=until)
    job = jobs.now(job)
    assert (job.state, job.position, job.needs, job.fingerprint, job.not_before) == (
        "queued",
        0,
        "intake",
        "new",
        until,
    )
    assert db.steps(job.id)[0].result is None
    assert db.ready("intake", until - 0.5, 9) == []


def test_a_passing_failure_waits_and_is_counted(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    step = db.steps(job.id)[1]
    until = time.time() + 30
    db.try_again(jobs.begin(job), job, step, error="rate limit", until=until, died=False)
    job = jobs.now(job)
    assert (job.state, job.position, job.error, job.not_before, job.deaths) == ("tts", 1, "rate limit", until, 0)
    assert db.steps(job.id)[1].failures == 1
    db.try_again(jobs.begin(job), job, db.steps(job.id)[1], error="killed", until=until, died=True)
    assert (jobs.now(job).deaths, db.steps(job.id)[1].failures) == (1, 2)
    assert [(a.outcome, a.error) for a in db.attempts(job.id)[1:]] == [("transient", "rate limit"), ("died", "killed")]
    jobs.complete(job)
    assert (jobs.now(job).error, jobs.now(job).not_before, jobs.now(job).deaths) == (None, 0, 1)


def test_giving_up_leaves_the_answer_to_publish(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    jobs.complete(job)
    job = jobs.now(job)
    db.give_up(jobs.begin(job), job, error="wav: broken", details="Traceback", died=True)
    job = jobs.now(job)
    assert (job.error, job.details, job.deaths, job.needs) == ("wav: broken", "Traceback", 1, "publish")
    assert [step.stage for step in db.steps(job.id)] == ["intake", "tts", "audio", "render", "mux", "publish"]
    assert db.steps(job.id)[job.position].stage == "publish"
    assert db.attempts(job.id)[-1].outcome == "died"
    db.publish(job, stem="hello", hashes={".error.txt": "e"})
    job = jobs.finish(job, "failed")
    assert (job.state, job.error, job.details, job.outputs) == (
        "failed",
        "wav: broken",
        "Traceback",
        {".error.txt": "e"},
    )
    assert db.failed_since(job.finished or 0) == 1
    assert db.failed_since((job.finished or 0) + 1) == 0


def test_giving_up_at_intake_has_an_answer_too(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    db.put_off(jobs.begin(job), job, until=5e9, waiting={"a.png": None})
    db.give_up(jobs.begin(job), jobs.now(job), error="a.png did not arrive", details="", died=False)
    job = jobs.now(job)
    assert (job.position, job.needs, job.waiting, job.not_before) == (1, "publish", {}, 0)
    assert [step.stage for step in db.steps(job.id)] == ["intake", "publish"]
    assert db.attempts(job.id)[-1].outcome == "permanent"


def test_errors_with_names_that_are_not_utf8_are_kept(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned("caf\udce9")
    db.try_again(jobs.begin(job), job, db.steps(job.id)[1], error="caf\udce9: no", until=0, died=False)
    assert jobs.now(job).error == "caf\\udce9: no"
    db.give_up(jobs.begin(job), jobs.now(job), error="x\udcff", details="y\udcff", died=False)
    assert (jobs.now(job).error, jobs.now(job).details) == ("x\\udcff", "y\\udcff")


def test_what_a_daemon_left_running_is_closed_and_does_not_count(db: Ledger, jobs: Jobs) -> None:
    job, other = jobs.planned("a"), jobs.planned("b")
    jobs.begin(job)
    jobs.begin(other)
    db.cut_short()
    assert [a.outcome for a in db.attempts(job.id)] == ["done", "cut short"]
    assert [a.outcome for a in db.attempts(other.id)] == ["done", "cut short"]
    assert (jobs.now(job).deaths, db.steps(job.id)[1].failures) == (0, 0)
    assert db.ready("cpu", time.time(), 9) == [jobs.now(job), jobs.now(other)]


def test_beginning_again_forgets_the_attempt_that_came_to_nothing(db: Ledger, jobs: Jobs) -> None:
    job, other = jobs.planned("a"), jobs.planned("b")
    jobs.begin(other)
    jobs.begin(job)
    jobs.begin(job)
    assert [a.outcome for a in db.attempts(job.id)] == ["done", None]
    assert [a.outcome for a in db.attempts(other.id)] == ["done", None]


# What people ask for


def test_cancelling(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    db.try_again(jobs.begin(job), job, db.steps(job.id)[1], error="busy", until=5e9, died=False)
    jobs.begin(job)
    db.cancel(jobs.now(job))
    job = jobs.now(job)
    assert (job.state, job.needs, job.not_before, job.is_final) == ("cancelled", None, 0, True)
    assert job.finished is not None
    assert db.attempts(job.id)[-1].outcome == "cancelled"
    assert db.ready("cpu", time.time(), 9) == []
    with pytest.raises(UsageError) as caught:
        db.cancel(job)
    assert str(caught.value) == f"hello ({job.id}) is cancelled already; there is nothing to cancel"


def test_a_cancel_that_a_full_disk_refuses_leaves_no_record_of_it(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        db = Ledger(tmp_path / "disk/ledger.sqlite3")
        jobs = Jobs(db)
        job = jobs.planned()
        folder = tmp_path / "disk/jobs" / job.id
        folder.mkdir(parents=True)
        ballast = fill(tmp_path / "disk")
        os.truncate(ballast, ballast.stat().st_size - mmap.PAGESIZE)  # room for the record, and not for the commit
        with pytest.raises(sqlite3.OperationalError, match="full"):
            db.cancel(job)
        assert jobs.now(job).state == "queued"
        assert not (folder / RECORD).exists()
        ballast.unlink()
        db.cancel(job)
        assert (folder / RECORD).exists()
        db.close()


def test_retrying_goes_on_from_what_is_done(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    jobs.complete(job)
    job = jobs.now(job)
    db.try_again(jobs.begin(job), job, db.steps(job.id)[2], error="x", until=0, died=True)
    db.give_up(jobs.begin(job), jobs.now(job), error="wav: broken", details="d", died=True)
    db.publish(jobs.now(job), stem="hello-2", hashes={".error.txt": "e"})
    job = jobs.finish(jobs.now(job), "failed")
    db.retry(job)
    job = jobs.now(job)
    assert (job.state, job.position, job.needs, job.deaths) == ("queued", 0, "intake", 0)
    assert (job.error, job.details, job.finished, job.publishing) == (None, None, None, None)
    assert (job.stem, job.outputs) == ("hello-2", {".error.txt": "e"})
    assert [step.failures for step in db.steps(job.id)] == [0] * 6
    jobs.plan(job)
    assert kept(db, job) == ["tts"]
    assert [step.stage for step in db.steps(job.id)] == ["intake", "tts", "audio", "render", "mux", "publish"]


def test_a_cancelled_job_can_be_retried(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    db.cancel(job)
    db.retry(jobs.now(job))
    assert (jobs.now(job).state, jobs.now(job).finished) == ("queued", None)


def test_only_failed_and_cancelled_jobs_can_be_retried(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    with pytest.raises(UsageError) as caught:
        db.retry(job)
    assert str(caught.value) == f"hello ({job.id}) is queued; only failed and cancelled jobs can be tried again"
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_job_whose_original_is_gone_cannot_be_retried(db: Ledger, jobs: Jobs) -> None:
    job = jobs.failed()
    db.cleaned([job.id])
    with pytest.raises(UsageError) as caught:
        db.retry(jobs.now(job))
    assert str(caught.value) == f"hello ({job.id}) is too old: its original is not kept any more; drop the file again"


def test_a_job_that_is_cleaned_while_it_is_to_be_retried_stays_as_it_is(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    folder = tmp_path / "jobs" / job.id
    folder.mkdir(parents=True)
    db.cancel(job)
    seen = jobs.now(job)
    db.cleaned([job.id])
    with pytest.raises(UsageError, match="is too old: its original is not kept any more"):
        db.retry(seen)
    assert jobs.now(job) == replace(seen, cleaned=True)
    assert (folder / RECORD).exists()
    assert db.going(9) == [job.id]
    with db._transaction() as connection:  # as an older version may have left it
        connection.execute("UPDATE jobs SET finished = NULL")
    assert db.going(9) == []


def test_pausing_is_remembered(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "l")
    assert not first.paused
    first.pause(True)
    first.close()
    second = Ledger(tmp_path / "l")
    assert second.paused
    second.pause(False)
    assert not second.paused
    second.close()


# Forgetting


def test_only_finished_jobs_can_be_cleaned(db: Ledger, jobs: Jobs) -> None:
    failed, running = jobs.failed("a"), jobs.planned("b")
    again = jobs.failed("c")
    db.retry(again)
    db.cleaned([failed.id, running.id, again.id])
    assert (jobs.now(failed).cleaned, jobs.now(running).cleaned, jobs.now(again).cleaned) == (True, False, False)
    assert (db.unmeasured(9), db.oldest_kept(9), db.going(9)) == ([], [], [failed.id])


def test_forgetting_takes_steps_and_attempts_along(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    job = jobs.failed()
    finished = job.finished or 0
    assert db.forget(finished + 1, 9) == 0
    db.cleaned([job.id])
    assert db.forget(finished + 1, 9) == 0
    db.gone([job.id])
    assert db.forget(finished, 9) == 0
    assert db.forget(finished + 1, 9) == 1
    assert db.job(job.id) is None
    other = sqlite3.connect(tmp_path / "ledger.sqlite")
    assert [other.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("steps", "attempts")] == [0, 0]
    other.close()


# The file


def test_what_was_entered_is_there_after_a_restart(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "l")
    jobs = Jobs(first)
    job = jobs.to_publish()
    steps, attempts = first.steps(job.id), first.attempts(job.id)
    first.close()
    second = Ledger(tmp_path / "l")
    assert (second.job(job.id), second.steps(job.id), second.attempts(job.id)) == (job, steps, attempts)
    second.close()


def test_the_ledger_is_durable_and_checks_references(tmp_path: Path, db: Ledger) -> None:
    pragmas = {name: db._value(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_newer_ledger_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(AteneaError) as caught:
        Ledger(path)
    assert str(caught.value) == (
        f"{path}: was written by a newer atenea (version 99 of the ledger, this one knows {len(MIGRATIONS)});"
        " install that version again"
    )
    assert list(tmp_path.glob("*.version-*")) == []


def test_an_upgrade_keeps_the_jobs_and_a_copy_of_the_old_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    old = Ledger(path)
    job = Jobs(old).planned()
    old.close()
    script = "ALTER TABLE jobs ADD COLUMN colour TEXT DEFAULT 'red'; UPDATE jobs SET colour = 'blue'"
    monkeypatch.setattr(ledger_file, "MIGRATIONS", (*MIGRATIONS, script))
    new = Ledger(path)
    assert new.job(job.id) == job
    assert new._value("SELECT colour FROM jobs") == "blue"
    assert new._value("PRAGMA user_version") == len(MIGRATIONS) + 1
    new.close()
    monkeypatch.setattr(ledger_file, "MIGRATIONS", MIGRATIONS)
    backup = Ledger(path.with_name(f"ledger.sqlite.version-{len(MIGRATIONS)}"))
    assert backup.job(job.id) == job
    backup.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    old = Ledger(path)
    job = Jobs(old).planned()
    old.close()
    monkeypatch.setattr(
        ledger_file, "MIGRATIONS", (*MIGRATIONS, "UPDATE jobs SET name = 'lost'; SELECT * FROM nowhere")
    )
    with pytest.raises(AteneaError, match=r"the ledger cannot be opened: no such table: nowhere$"):
        Ledger(path)
    monkeypatch.setattr(ledger_file, "MIGRATIONS", MIGRATIONS)
    again = Ledger(path)
    assert again.job(job.id) == job
    again.close()


def test_a_new_ledger_has_no_backup(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    Ledger(tmp_path / "ledger.sqlite").close()
    assert list(tmp_path.glob("*.version-*")) == []


@pytest.mark.parametrize("content", [b"this is no database at all, but it is long enough to look at" * 20])
def test_a_file_that_is_no_ledger_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(AteneaError) as caught:
        Ledger(path)
    assert str(caught.value) == f"{path}: is damaged (file is not a database); the daemon mends it: atenea run"
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "ledger.sqlite"
    with pytest.raises(AteneaError) as caught:
        Ledger(path)
    assert str(caught.value) == f"{path}: the ledger cannot be opened: unable to open database file"


def test_a_full_disk_undoes_the_change_and_the_ledger_goes_on(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    pages = db._value("PRAGMA page_count")
    db._value(f"PRAGMA max_page_count = {pages}")
    attempt = jobs.begin(job)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        db.complete(attempt, job, db.steps(job.id)[1], {"artifact": "x" * 1_000_000})
    assert db.steps(job.id)[1].result is None
    db._value("PRAGMA max_page_count = 1000000")
    db.complete(attempt, job, db.steps(job.id)[1], {"artifact": "x" * 1_000_000})
    assert jobs.now(job).position == 2


def test_a_commit_that_fails_undoes_the_change(tmp_path: Path, db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    # A deferred constraint is checked at the commit, which fails then.
    with pytest.raises(sqlite3.IntegrityError), db._transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("UPDATE jobs SET name = 'lost'")
        connection.execute("INSERT INTO attempts (job_id, stage, plugin, started) VALUES ('nobody', 'x', '', 0)")
    assert jobs.now(job) == job
    jobs.plan(job)
    assert jobs.now(job).needs == "cpu"


def test_two_threads_write_and_read_at_once(db: Ledger, jobs: Jobs) -> None:
    mine = [jobs.planned(f"job{number}") for number in range(2)]

    def work(number: int) -> None:
        job = mine[number]
        for _ in range(30):
            step = db.steps(job.id)[1]
            db.try_again(db.begin(job, step), job, step, error=f"e{number}", until=0, died=False)
            assert {row.id for row in db.active()} == {row.id for row in mine}

    in_threads(2, work)
    for number, job in enumerate(mine):
        assert db.steps(job.id)[1].failures == 30
        assert {a.error for a in db.attempts(job.id)[1:]} == {f"e{number}"}
        assert len(db.attempts(job.id)) == 31


def test_what_came_late(db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused job is looked at for ten minutes, any other until its first stage is done."""
    refused, waiting, planned = jobs.failed("refused"), jobs.take("waiting"), jobs.planned("planned")
    assert [job.id for job in db.refused_lately()] == [refused.id]
    assert [db.is_past_changes(job.id) for job in (refused, waiting, planned)] == [False] * 3
    jobs.complete(planned)
    assert db.is_past_changes(planned.id)
    later = time.time() + 601
    monkeypatch.setattr(time, "time", lambda: later)
    assert db.refused_lately() == []
    assert [db.is_past_changes(job.id) for job in (refused, waiting)] == [True, False]


def test_a_copy_that_begins_later(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    assert db.unfinished_copies() == []
    db.copy_begun(job.id)
    assert [row.job_id for row in db.unfinished_copies()] == [job.id]
    db.copy_finished(job.id)
    assert db.unfinished_copies() == []


def test_one_who_only_reads_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a folder?" / "l#1"
    path.parent.mkdir()
    writer = Ledger(path)
    job = Jobs(writer).take()
    reader = Ledger(path, only_read=True)
    assert reader.active() == [job]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.pause(True)
    reader.close()
    writer.close()
    with pytest.raises(AteneaError, match="cannot be opened"):
        Ledger(tmp_path / "missing", only_read=True)
    assert not (tmp_path / "missing").exists()


def test_one_who_only_reads_leaves_an_older_ledger_as_it_is(tmp_path: Path) -> None:
    Ledger(tmp_path / "l").close()
    with sqlite3.connect(tmp_path / "l") as file:
        file.execute("PRAGMA user_version = 0")
    file.close()
    with pytest.raises(AteneaError) as caught:
        Ledger(tmp_path / "l", only_read=True)
    assert str(caught.value) == f"{tmp_path / 'l'}: is an older atenea's; start the daemon, which brings it up to date"
