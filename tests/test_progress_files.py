"""NAME.progress.txt: for people who only have scp."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from stock import Jobs
from structlog.testing import capture_logs

from atenea.config import Config, Outbox, Paths
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.progress_files import ProgressFiles


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "outbox").mkdir()
    return Config(paths=Paths(outbox=tmp_path / "outbox"), outbox=Outbox(progress_files=True))


def shown(config: Config) -> dict[str, str]:
    return {path.name: path.read_text() for path in config.paths.outbox.iterdir()}


def test_a_file_for_each_running_job_under_a_stem_of_its_own(config: Config, db: Ledger, jobs: Jobs) -> None:
    files = ProgressFiles(config, db)
    one, two = jobs.planned("hello"), jobs.planned("hello")
    running = {one.id: Progress("tts", "espeak"), two.id: Progress("mux", "", text="adding the speech")}
    files.update(running)
    assert shown(config) == {
        "hello.progress.txt": "espeak: 0%\n",
        "hello-2.progress.txt": "mux: 0%, adding the speech\n",
    }
    assert (jobs.now(one).stem, jobs.now(two).stem) == ("hello", "hello-2")
    del running[one.id]
    files.update(running)
    assert set(shown(config)) == {"hello-2.progress.txt"}
    files.clear()
    assert shown(config) == {}


def test_the_time_left_is_told_once_it_is_known(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.planned()
    progress = Progress("render", "preview")
    for moment, fraction in ((0.0, 0.25), (300.0, 0.5)):
        monkeypatch.setattr(time, "monotonic", lambda now=moment: now)
        progress.update(fraction, "frame 10 of 20")
    ProgressFiles(config, db).update({job.id: progress})
    (text,) = shown(config).values()
    assert text == "preview: 50%, frame 10 of 20, about 10 min 0 s left\n"


@pytest.mark.parametrize("stage", ["intake", "publish"])
def test_the_daemons_own_short_steps_have_none(config: Config, db: Ledger, jobs: Jobs, stage: str) -> None:
    ProgressFiles(config, db).update({jobs.planned().id: Progress(stage, "")})
    assert shown(config) == {}


def test_nothing_is_written_unless_it_is_wanted(config: Config, db: Ledger, jobs: Jobs) -> None:
    unwanted = config.model_copy(update={"outbox": Outbox()})
    job = jobs.planned()
    ProgressFiles(unwanted, db).update({job.id: Progress("tts", "espeak")})
    assert shown(config) == {}
    assert jobs.now(job).stem is None


def test_an_outbox_that_cannot_be_written_is_logged_and_lived_with(config: Config, db: Ledger, jobs: Jobs) -> None:
    config.paths.outbox.rmdir()
    files = ProgressFiles(config, db)
    with capture_logs() as logs:
        files.update({jobs.planned().id: Progress("tts", "espeak")})
    assert [entry["event"] for entry in logs] == ["the progress files cannot be written"]


def test_what_a_killed_daemon_left_goes_at_the_next_start(config: Config, db: Ledger, jobs: Jobs) -> None:
    running, cancelled = jobs.planned("a"), jobs.planned("b")
    ProgressFiles(config, db).update({job.id: Progress("tts", "espeak") for job in (running, cancelled)})
    db.cancel(jobs.now(cancelled))
    (config.paths.outbox / "a.txt").write_text("not yours")
    ProgressFiles(config, db).tidy()
    assert set(shown(config)) == {"a.txt"}


def test_a_ledger_that_cannot_be_written_is_a_warning(
    config: Config, db: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(db, "choose_stem", full)
    with capture_logs() as logs:
        ProgressFiles(config, db).update({jobs.planned().id: Progress("tts", "espeak")})
    assert [(entry["log_level"], entry["error"]) for entry in logs] == [("warning", "database or disk is full")]


def test_only_what_a_daemon_left_behind_is_tidied_up(config: Config, db: Ledger, jobs: Jobs) -> None:
    job = jobs.planned("hello")
    ProgressFiles(config, db).update({job.id: Progress("tts", "espeak")})
    (config.paths.outbox / "thesis.progress.txt").write_text("half of it")
    ProgressFiles(config, db).tidy()
    assert shown(config) == {"thesis.progress.txt": "half of it"}


def test_a_link_in_its_place_is_not_followed(config: Config, db: Ledger, jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.planned("hello")
    other = tmp_path / "other"
    other.write_text("kept")
    (config.paths.outbox / f".atenea-{job.id}.progress.txt").symlink_to(other)
    ProgressFiles(config, db).update({job.id: Progress("tts", "espeak")})
    assert shown(config) == {"hello.progress.txt": "espeak: 0%\n"}
    assert other.read_text() == "kept"
