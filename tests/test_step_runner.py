"""What is looked at before a job is read, and before its first stage."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from stock import Jobs

from atenea.arrivals import Arrivals
from atenea.config import Config, load_config
from atenea.executor import Failed
from atenea.inbox.readings import fingerprint
from atenea.ledger import Ledger
from atenea.rows import JobRow
from atenea.step_runner import StepRunner


class Refusing:
    """An executor that refuses every job."""

    runs = 0

    async def run(self, *_: Any) -> Failed:
        self.runs += 1
        return Failed("no good")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "atenea.toml").write_text("[watch]\nsettle_seconds = 0.1\n")
    config = load_config(tmp_path / "atenea.toml")
    for path in (config.paths.inbox, config.paths.outbox, config.jobs):
        path.mkdir(parents=True)
    return config


class Bench:
    """One taken text, and what becomes of it when its next step is run."""

    def __init__(self, config: Config, db: Ledger, jobs: Jobs) -> None:
        self._jobs, self._db = jobs, db
        self._executor = Refusing()
        self._runner = StepRunner(config, db, self._executor, Arrivals(config, db))  # type: ignore[arg-type]
        settled = config.paths.inbox
        (settled / "hello.txt").write_text("Hello.")
        self.id = jobs.take(fingerprint=fingerprint(settled, "hello.txt")).id
        self.folder = config.jobs / self.id
        self.original = self.folder / "original"
        self.original.mkdir(parents=True)
        (settled / "hello.txt").rename(self.original / "hello.txt")

    @property
    def job(self) -> JobRow:
        return self._jobs.now(self.id)

    def step(self) -> JobRow:
        """Run the next step."""
        job = self.job
        asyncio.run(self._runner.run(job, self._db.steps(job.id)[job.position], lambda *_: None))  # type: ignore[arg-type]
        return self.job

    @property
    def runs(self) -> int:
        return self._executor.runs


@pytest.fixture
def bench(config: Config, db: Ledger, jobs: Jobs) -> Bench:
    return Bench(config, db, jobs)


def test_a_copy_whose_row_is_committed_gets_its_name_first(bench: Bench) -> None:
    bench.original.rename(bench.folder / ".copy")
    assert bench.step().error is None
    assert bench.job.not_before > 0
    (bench.folder / ".copy").rename(bench.original)
    assert bench.step().error == "no good"


def test_it_is_not_refused_while_it_is_written(bench: Bench) -> None:
    with (bench.original / "hello.txt").open("a"):
        assert bench.step().error is None
        assert bench.job.state == "queued"
        assert bench.runs == 1
    assert bench.step().error == "no good"


def test_it_is_not_refused_when_it_changed_while_it_was_read(bench: Bench) -> None:
    before = bench.job.fingerprint
    with (bench.original / "hello.txt").open("a") as upload:
        bench.step()
        upload.write(" And more.")
    assert bench.step().error is None
    assert bench.job.fingerprint != before
    assert bench.step().error == "no good"


def test_no_first_stage_begins_while_it_is_written(bench: Bench, jobs: Jobs) -> None:
    jobs.plan(bench.id)
    with (bench.original / "hello.txt").open("a"):
        assert bench.step().position == 0
        assert bench.runs == 0
    jobs.plan(bench.id)
    assert bench.step().error == "no good"


def test_somebody_removed_the_original(bench: Bench) -> None:
    (bench.original / "hello.txt").unlink()
    assert str(bench.step().error).endswith("somebody removed the original")
