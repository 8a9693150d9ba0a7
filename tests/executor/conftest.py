"""A bench for the executor: plugins written by the test, real worker processes, and a check that nothing is left."""

from __future__ import annotations

import asyncio
import os
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from atenea.config import Config, Limits, Paths, Workers
from atenea.executor import Outcome, Task
from atenea.job import Job, StageSettings
from atenea.job_store import write_job_file
from atenea.local_executor import LocalExecutor

HEADER = "import os, signal, subprocess, sys, time\nfrom atenea import *\n"


PATIENCE_SECONDS = 120.0


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"still not so after {PATIENCE_SECONDS:g} s")


def running(pid: int) -> bool:
    """Whether there is such a process, other than a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Bench:
    """A configuration, a job's folder and a plugins folder under `tmp_path`."""

    def __init__(self, tmp_path: Path, logs: list[Any]) -> None:
        self.plugins = tmp_path / "plugins"
        self.folder = tmp_path / "job"
        self.state = tmp_path / "state"
        self.logs = logs
        for folder in (self.plugins, self.folder, self.state):
            folder.mkdir()
            folder.chmod(0o755)
        write_job_file(self.folder, job("1"))
        paths = {name: tmp_path / name for name in ("inbox", "outbox", "cache", "assets", "models")}
        self.config = Config(
            paths=Paths(**paths, plugins=self.plugins, state=self.state),
            workers=Workers(cpu=2, network=2, gpu=1, cancel_seconds=60, idle_seconds=60),
            limits=Limits(silence_seconds=60),
        )

    def plugin(self, name: str, body: str, *, stage: str = "tts", needs: str = "cpu") -> None:
        """Write a plugin whose one hook has this body."""
        arguments = {
            "tts": "job, ctx",
            "audio": "job, speech, ctx",
            "render": "job, wav, ctx",
            "post": "job, video, ctx",
        }[stage]
        body = textwrap.indent(textwrap.dedent(body), "    ")
        self.source(name, f"needs = {set(needs.split(','))!r}\n@hookimpl\ndef {stage}({arguments}):\n{body}\n")

    def source(self, name: str, source: str) -> None:
        file = self.plugins / f"{name}.py"
        file.write_text(HEADER + textwrap.dedent(source))
        file.chmod(0o644)

    def task(self, plugin: str, *, stage: str = "tts", needs: str = "cpu", **more: Any) -> Task:
        return Task(
            **{
                "kind": "stage",
                "needs": frozenset(needs.split(",")),
                "job_id": "1",
                "folder": str(self.folder),
                "stage": stage,
                "plugin": plugin,
                "workdir": f"steps/{stage}-{plugin}",
                **more,
            }
        )

    def configure(self, **tables: Mapping[str, Any]) -> None:
        update = {name: getattr(self.config, name).model_copy(update=dict(keys)) for name, keys in tables.items()}
        self.config = self.config.model_copy(update=update)

    def executor(self, **arguments: Any) -> LocalExecutor:
        return LocalExecutor(self.config, **arguments)

    def run(
        self, *tasks: Task, on_progress: Callable[[float, str], None] = lambda _f, _t: None, **arguments: Any
    ) -> Any:
        """The outcomes of tasks that run one after the other; of one task alone its outcome."""

        async def work(executor: LocalExecutor) -> list[Outcome]:
            return [await executor.run(task, on_progress) for task in tasks]

        outcomes = self.within(work, **arguments)
        return outcomes[0] if len(tasks) == 1 else outcomes

    def within(self, work: Callable[[LocalExecutor], Awaitable[Any]], **arguments: Any) -> Any:
        """What `work` returns, with an executor that is closed afterwards."""

        async def main() -> Any:
            executor = self.executor(**arguments)
            try:
                await executor.start()
                return await work(executor)
            finally:
                await executor.close()

        return asyncio.run(main(), debug=False)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """What `condition` gives as soon as it is true."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (value := condition()):  # noqa: ASYNC110 - what other processes do sets no event
                await asyncio.sleep(0.01)
            return value

    def here(self, plugin: str) -> Path:
        """A file that a plugin makes in its work folder to say that it is at work."""
        return self.folder / f"steps/tts-{plugin}/here"

    def written(self, plugin: str, name: str = "speech.wav") -> str:
        """What a plugin wrote into its work folder."""
        return (self.folder / f"steps/tts-{plugin}" / name).read_text()

    wait_for = staticmethod(wait_for)
    running = staticmethod(running)

    def lines(self) -> list[str]:
        """What plugins printed."""
        return [entry["line"] for entry in self.logs if entry["event"] == "worker output"]


def job(identifier: str, **more: Any) -> Job:
    settings = StageSettings(plugin="x")
    return Job(
        id=identifier,
        name="a",
        **{"text": "hello", "tts": settings, "audio": settings, "render": settings, **more},
    )


def _children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    descriptors = set(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    children = _children()
    with capture_logs() as logs:
        yield Bench(tmp_path, logs)
    wait_for(lambda: set(threading.enumerate()) <= threads)
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
    assert _children() <= children
    assert not [pid for pid in filter(str.isdigit, os.listdir("/proc")) if _works_for(pid, tmp_path)]


def _works_for(pid: str, tmp_path: Path) -> bool:
    """Whether a process has the test's folder in its environment; workers inherit it."""
    try:
        return str(tmp_path).encode() in Path(f"/proc/{pid}/environ").read_bytes() and running(int(pid))
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATENEA_TEST_FOLDER", str(tmp_path))
