"""A process is killed before each step of taking and publishing: whoever comes next loses and doubles nothing."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.victim import config_of, killed, publish, take
from stock import STEPS, Jobs

from atenea import durable
from atenea.config import Config
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.step_runner import StepRunner

FORKS = multiprocessing.get_context("forkserver")
"""Forks from a process that has imported this: each import would take a second."""

FORKS.set_forkserver_preload(["atenea.inbox.scan", "atenea.step_runner", "unittest.mock"])

JOBS = {
    "text with picture": {"news/a.txt": b"Hello.", "news/a.png": b"picture"},
    "folder": {"a/job.toml": b"text = 'Hello.'", "a/in/face.png": b"picture"},
}
OUTPUTS = {".mp4": b"video" * 1000, ".note.txt": b"note"}


def is_killed(work: Callable[[Path], None], folder: Path, at: int, log: Path) -> bool:
    process = FORKS.Process(target=killed, args=(work, folder, at, log))
    process.start()
    process.join()
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


@pytest.fixture
def places(tmp_path: Path, other_file_system: Path) -> Iterator[SimpleNamespace]:
    """A folder for each attempt, in memory where that is possible; and another file system."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        is_other = other_file_system.stat().st_dev != Path(folder).stat().st_dev
        there = other_file_system if is_other else tmp_path
        yield SimpleNamespace(here=Path(folder), there=there, log=tmp_path / "log")


def set_up(folder: Path, *, inbox: Path | None = None, outbox: Path | None = None) -> Config:
    folder.mkdir()
    elsewhere = [f"{name} = '{path}'" for name, path in {"inbox": inbox, "outbox": outbox}.items() if path]
    (folder / "atenea.toml").write_text("\n".join(["[presets.news]", "[paths]", *elsewhere]))
    config = config_of(folder)
    for path in (config.paths.inbox, config.paths.outbox, config.jobs):
        path.mkdir(parents=True)
    return config


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def table(log: Path) -> str:
    hit = Counter(log.read_text().splitlines())
    return "\n".join(f"{count:4} {step}" for step, count in hit.items())


@pytest.mark.parametrize("elsewhere", [False, True], ids=["rename", "copy"])
@pytest.mark.parametrize("job", JOBS)
def test_taking_is_killed_before_every_step(
    places: SimpleNamespace, record_property: Callable[[str, object], None], job: str, elsewhere: bool
) -> None:
    files, at, done = JOBS[job], 0, False
    while not done:
        inbox = places.there / f"inbox-{at}" if elsewhere else None
        config = set_up(places.here / str(at), inbox=inbox)
        for path, data in files.items():
            (config.paths.inbox / path).parent.mkdir(exist_ok=True, parents=True)
            (config.paths.inbox / path).write_bytes(data)
        done = not is_killed(take, places.here / str(at), at, places.log)
        take(places.here / str(at))

        with closing(Ledger(config.paths.state / LEDGER)) as ledger:
            (row,) = ledger.active()
            assert ledger.unfinished_copies() == []
        assert (row.name, row.state, row.refusal) == ("a", "queued", None)
        assert os.listdir(config.jobs) == [row.id]
        assert files_in(config.jobs / row.id) == {f"original/{path}": data for path, data in files.items()}
        assert [path for path in config.paths.inbox.rglob("*") if path.name != "news"] == []
        shutil.rmtree(places.here / str(at))
        at += 1
    assert at > 10  # as many steps there are at least
    record_property("Whichever system call", (at - 1, "kills while taking"))
    print(f"\n{table(places.log)}")


def to_publish(config: Config, *, failed: bool) -> str:
    """A job of which all is done but publishing; or one that failed again after it was answered."""
    with closing(Ledger(config.paths.state / LEDGER)) as ledger:
        jobs = Jobs(ledger)
        job = jobs.planned("a")
        folder = config.jobs / job.id
        for step in STEPS[:-1]:
            work = folder / "work" / step.stage
            work.mkdir(parents=True)
            made: dict[str, Any] = {}
            if step.stage == "mux":
                for suffix, data in OUTPUTS.items():
                    (work / f"file{suffix}").write_bytes(data)
                made = {"artifact": "work/mux/file.mp4", "attachments": {".note.txt": "work/mux/file.note.txt"}}
            jobs.complete(job, **made)
        if failed:
            ledger.give_up(jobs.begin(job), jobs.now(job), error="broke", details="", died=False)
            runner = StepRunner(config, ledger, None, None)  # type: ignore[arg-type]
            job = jobs.now(job)
            runner._publish_now(job, ledger.steps(job.id)[job.position])
            ledger.retry(jobs.now(job))
            ledger.give_up(jobs.begin(job), jobs.now(job), error="broke again", details="", died=False)
        return job.id


@pytest.mark.parametrize("elsewhere", [False, True], ids=["link", "copy"])
@pytest.mark.parametrize("failed", [False, True], ids=["done", "failed again"])
def test_publishing_is_killed_before_every_step(
    places: SimpleNamespace, record_property: Callable[[str, object], None], failed: bool, elsewhere: bool
) -> None:
    at, done = 0, False
    while not done:
        outbox = places.there / f"outbox-{at}" if elsewhere else None
        config = set_up(places.here / str(at), outbox=outbox)
        job_id = to_publish(config, failed=failed)
        done = not is_killed(publish, places.here / str(at), at, places.log)
        publish(places.here / str(at))

        with closing(Ledger(config.paths.state / LEDGER)) as ledger:
            (job,) = ledger.finished(-1)
            publishing = [a.outcome for a in ledger.attempts(job_id) if a.stage == "publish"]
        assert (job.id, job.state) == (job_id, "failed" if failed else "done")
        assert publishing.count("done") == 1 + failed
        found = files_in(config.paths.outbox)
        if failed:
            assert found.keys() == {"a.error.txt"}
            assert b"broke again" in found["a.error.txt"]
        else:
            assert found == {f"a{s}": data for s, data in OUTPUTS.items()} | {"a.json": found["a.json"]}
        assert {f"a{suffix}" for suffix in job.outputs} == found.keys()
        assert all(durable.sha256_file(config.paths.outbox / f"a{s}") == sha for s, sha in job.outputs.items())
        assert list((config.jobs / job_id).rglob(".*")) == []
        shutil.rmtree(places.here / str(at))
        at += 1
    assert at > 10
    record_property("Whichever system call", (at - 1, "while publishing"))
    print(f"\n{table(places.log)}")
