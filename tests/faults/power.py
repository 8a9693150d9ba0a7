"""Jobs from the inbox to the outbox in this process, with the daemon's own parts, on a disk whose power may fail."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from faults.disk import FATES, Disk, State
from faults.kill_points import Step, watched
from faults.promise import Drop
from structlog.testing import capture_logs
from system.instance import RENDER_STUB

from atenea import durable
from atenea.arrivals import Arrivals
from atenea.config import Config, load_config
from atenea.executor import Done, Failed, Outcome, Task
from atenea.failures import failure_event
from atenea.inbox.scan import Scanner
from atenea.inbox.taking import Taker
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.plugin_manager import PluginManager
from atenea.presets import make_folders
from atenea.progress_files import ProgressFiles
from atenea.publisher import Publisher
from atenea.retention import clean_up
from atenea.step_runner import StepRunner
from atenea.worker import Worker

CONFIG = """
[paths]
plugins = "{plugins}"
[watch]
settle_seconds = 0
[tts]
plugin = "standin"
[audio]
plugin = "standin"
[render]
plugin = "standin"
[post]
plugins = ["standin"]
[post.provenance]
enabled = false
[presets.news]
priority = 1
"""

PLUGIN = f"""
from atenea import *
import shutil
{RENDER_STUB}
@hookimpl
def tts(job, ctx):
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(3200))
    ctx.save_timing([TimedText(job.text, 0.0, 0.1)])
    return path

@hookimpl
def audio(job, speech, ctx):
    return shutil.copy(speech, ctx.workdir / "voice.wav")

@hookimpl
def post(job, video, ctx):
    note = ctx.workdir / "note"
    note.write_text(f"{{job.text}} {{[word.text for word in ctx.timing]}}")
    ctx.attach(note, ".note.txt")
"""

_ROUNDS = 100


class _Here:
    """Runs tasks in this process: what a worker does with them, without the worker."""

    capacity: Mapping[str, int] = {}

    def __init__(self, config: Config, plugins: PluginManager) -> None:
        self._worker = Worker(None, config, plugins)  # type: ignore[arg-type] - nobody listens

    async def run(self, task: Task, _on_progress: object) -> Outcome:
        try:
            return Done(getattr(self._worker, task.kind)(task, lambda *_: None))
        except Exception as error:
            event = failure_event(error, task)
            return Failed(event["error"], event["details"], event["transient"])

    async def close(self) -> None:
        pass


class Machine:
    """A folder with an instance, whose power may fail while it works.

    Args:
        root: an empty folder.
        plugins: the folder of the plugins, which is not part of the instance.
    """

    def __init__(self, root: Path, plugins: Path) -> None:
        self.root = root
        self.inbox = root / "inbox"
        self._plugins = plugins

    def set_up(self, more: str = "") -> None:
        """Write the configuration, and the stand-in for all stages."""
        self.inbox.mkdir()
        (self._plugins / "standin.py").write_text(PLUGIN)
        (self.root / "atenea.toml").write_text(CONFIG.format(plugins=self._plugins) + more)

    def drop(self, drops: Mapping[str, Drop]) -> None:
        """Write the jobs into the inbox."""
        for drop in drops.values():
            for path, data in drop.files.items():
                (self.inbox / path).parent.mkdir(exist_ok=True, parents=True)
                (self.inbox / path).write_bytes(data)

    def run(self) -> None:
        """Start, recover, take and finish all jobs, keep house, and stop."""
        config = load_config(self.root / "atenea.toml")
        for folder in (config.paths.inbox, config.paths.outbox, config.jobs):
            durable.make_folders(folder)
        with closing(Ledger(config.paths.state / LEDGER)) as ledger, capture_logs():
            asyncio.run(_work(config, ledger))
            clean_up(config, ledger, time.time())


async def _work(config: Config, ledger: Ledger) -> None:
    paths = config.paths
    presets = frozenset(config.presets)
    executor = _Here(config, PluginManager(paths.plugins, cache=paths.cache, models=paths.models))
    runner = StepRunner(config, ledger, executor, Arrivals(config, ledger))
    make_folders(paths.inbox, presets, report=print)
    taker = Taker(paths.inbox, paths.state, presets, ledger)
    scanner = Scanner(paths.inbox, presets, 0)
    ledger.cut_short()
    Publisher(paths.outbox, ledger).tidy()
    ProgressFiles(config, ledger).tidy()
    taker.recover()
    for _ in range(_ROUNDS):
        found = scanner.scan()
        taker.take(found.settled)
        jobs = ledger.active()
        if not jobs and not found.settled and not found.pending:
            break
        for job in jobs:
            await runner.run(job, ledger.steps(job.id)[job.position], lambda *_: None)


@contextmanager
def observed(disk: Disk) -> Iterator[None]:
    """Let the disk see each step of this process, and hear of each sync."""

    def before(step: Step) -> None:
        disk.before(" ".join(part for part in (step.sequence, step.about, step.call) if part))

    def synced(descriptor: int) -> None:
        disk.before("fsync")
        disk.synced(os.fstat(descriptor).st_ino)

    def all_synced(*_: Any) -> int:
        disk.before("sync")
        disk.all_synced()
        return 0

    with (
        mock.patch.object(os, "fsync", synced),
        mock.patch.object(os, "sync", all_synced),
        mock.patch("atenea.durable._syncfs", all_synced),
        watched(before),
    ):
        yield
        disk.before("the end")


def states_after(disk: Disk, seeds: int) -> Iterator[tuple[str, State]]:
    """The different states that a power cut may leave, each with a name.

    Args:
        disk: what was seen.
        seeds: random subsets for each moment, beside none and all.
    """
    found = set()
    for number, moment in enumerate(disk.moments):
        for fate in FATES:
            for seed in range(seeds if fate == "some" else 1):
                state = State.after(moment, fate, random.Random(f"{number} {seed}"))
                if state not in found:
                    found.add(state)
                    yield f"{number} before {moment.what}: {fate}{f' {seed}' if fate == 'some' else ''}", state
