"""What stands beside the video, and instead of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from stock import STEPS, Jobs

import atenea
from atenea.ledger import Ledger
from atenea.report import build_error, build_report, iso_time, write_json
from atenea.rows import PUBLISH


def test_times_are_iso_8601_in_utc() -> None:
    assert iso_time(None) is None
    assert iso_time(0) == "1970-01-01T00:00:00.000+00:00"
    assert iso_time(1_700_000_000.5) == "2023-11-14T22:13:20.500+00:00"


def test_a_report_says_what_the_video_was_made_from_by_what_and_how_long(
    tmp_path: Path, db: Ledger, jobs: Jobs
) -> None:
    poster = replace(STEPS[0], stage="post", plugin="poster", options={"quality": 80})
    job = jobs.take("hello", preset="news")
    jobs.plan(job, (*STEPS[:-1], poster, PUBLISH), priority=3)
    step = db.steps(job.id)[1]
    db.try_again(jobs.begin(job), jobs.now(job), step, error="busy", until=0, died=False)
    options = {"voice": "en", "rate": 170}
    jobs.complete(job, options=options, plugin_version="0.1.0", report={"espeak": "1.52"})
    for result in ({"plugin_version": "0.1.0"}, {"report": {}}, {}, {"options": {"quality": 80, "at": None}}):
        jobs.complete(job, **result)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"video")
    steps = [
        step if step.seconds is None else replace(step, seconds=step.position + 0.12345) for step in db.steps(job.id)
    ]
    job = jobs.now(job)
    report = build_report(job, steps, video)
    stages = report.pop("stages")
    assert report == {
        "id": job.id,
        "name": "hello",
        "atenea": atenea.__version__,
        "generated_by_ai": True,
        "preset": "news",
        "priority": 3,
        "taken": iso_time(job.created),
        "started": iso_time(job.started),
        "inputs": {"text": "a"},
        "video": {"sha256": hashlib.sha256(b"video").hexdigest(), "bytes": 5},
    }
    assert stages == [
        {
            "stage": "tts",
            "plugin": "espeak",
            "version": "0.1.0",
            "options": options,
            "seconds": 1.123,
            "failures": 1,
            "report": {"espeak": "1.52"},
        },
        {"stage": "audio", "plugin": "wav", "version": "0.1.0", "options": {}, "seconds": 2.123, "failures": 0},
        {"stage": "render", "plugin": "preview", "version": None, "options": {}, "seconds": 3.123, "failures": 0},
        {
            "stage": "post",
            "plugin": "poster",
            "version": None,
            "options": {"quality": 80, "at": None},
            "seconds": 5.123,
            "failures": 0,
        },
    ]


def test_a_report_is_json_for_people(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"name": "grüße", "n": 1})
    assert path.read_text() == '{\n  "name": "grüße",\n  "n": 1\n}\n'
    assert json.loads(path.read_text())["n"] == 1


def test_an_answer_begins_with_the_sentence_and_ends_with_the_cure(db: Ledger, jobs: Jobs) -> None:
    job = jobs.take()
    db.give_up(jobs.begin(job), job, error="tts plugin 'espeak': no voice", details="line 1\nline 2\n\n", died=False)
    job = jobs.now(job)
    again = f"mend hello.txt and drop it anew; if what is wrong lies elsewhere, mend that, then: atenea retry {job.id}"
    assert build_error(job, db.steps(job.id)) == (
        f"tts plugin 'espeak': no voice\n\nline 1\nline 2\n\njob: {job.id} (hello)\nagain: {again}\n"
    )


def test_a_job_that_was_read_is_tried_again_as_it_is(db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned()
    db.give_up(jobs.begin(job), job, error="tts plugin 'espeak': it broke", details="", died=False)
    again = f"again: mend the cause, then: atenea retry {job.id}; or change hello.txt and drop it anew"
    assert build_error(jobs.now(job), db.steps(job.id)).splitlines()[-1] == again


def test_an_answer_without_details_is_short(db: Ledger, jobs: Jobs) -> None:
    job = jobs.failed(error="a.txt: has no text in it")
    again = f"mend hello.txt and drop it anew; if what is wrong lies elsewhere, mend that, then: atenea retry {job.id}"
    assert build_error(job, db.steps(job.id)).split("\n\n") == [
        "a.txt: has no text in it",
        f"job: {job.id} (hello)\nagain: {again}\n",
    ]


def test_an_answer_can_be_written_whatever_the_file_was_called(db: Ledger, jobs: Jobs) -> None:
    job = jobs.failed("caf\udce9", error="caf\udce9.txt: has no text in it")
    answer = build_error(job, db.steps(job.id)).encode()
    assert answer.startswith(b"caf\\udce9.txt: has no text in it\n")
    assert b"mend caf_.txt and drop it anew; " in answer
