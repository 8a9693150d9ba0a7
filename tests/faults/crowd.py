"""Many short jobs through a real daemon, and what its processes hold meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from faults.history import fill
from system.instance import Instance, wait_until

from atenea.ledger_file import LEDGER

CONFIG = """
[watch]
settle_seconds = 0.05
rescan_seconds = 1
[tts]
plugin = "standin"
[audio]
plugin = "standin"
[render]
plugin = "standin"
[workers]
cpu = 2
"""

STAND_IN = '''
import os, shutil, wave
import av, numpy as np

needs = {"cpu"}

@hookimpl
def tts(job, ctx):
    """A tenth of a second of silence."""
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setparams((1, 2, 16000, 0, "NONE", ""))
        wav.writeframes(bytes(3200))
    return path

@hookimpl
def audio(speech, ctx):
    return shutil.copyfile(speech, ctx.workdir / "speech.wav")

@hookimpl
def render(job, wav, ctx):
    """Three grey pictures, drawn once."""
    kept = ctx.cache / "grey.mp4"
    if not kept.exists():
        drawn = ctx.workdir / "drawn.mp4"
        with av.open(str(drawn), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            grey = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8))
            for number in range(3):
                grey.pts = number
                container.mux(stream.encode(grey))
            container.mux(stream.encode())
        os.replace(drawn, kept)
    return shutil.copyfile(kept, ctx.workdir / "video.mp4")
'''
"""The cheapest stages: what is measured is the daemon's share of a job."""


@dataclass(frozen=True)
class Holding:
    """What a process holds: its resident memory in bytes, and its open descriptors."""

    memory: int
    descriptors: int


class Crowd:
    """A running daemon with stand-in stages, given many jobs."""

    def __init__(self, instance: Instance, history: int) -> None:
        self.instance = instance
        self._history = history
        self._dropped = 0

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.instance.folder / "state"

    def drop(self, count: int) -> None:
        """Put so many texts into the inbox, at once."""
        for number in range(self._dropped, self._dropped + count):
            self.instance.drop(f"job-{number}.txt", f"This is number {number}.")
        self._dropped += count

    def settle(self, jobs: int) -> None:
        """Wait until so many jobs were taken and none is left to do."""
        wait_until(lambda: self._counts() == (self._history + jobs, 0), f"{jobs} jobs to finish")

    def _counts(self) -> tuple[int, int]:
        """How many jobs are finished, and how many are not."""
        with closing(sqlite3.connect(f"file:{self.state / LEDGER}?mode=ro", uri=True)) as ledger:
            counts = "SELECT count(finished), count(*) - count(finished) FROM jobs"
            return tuple(map(int, ledger.execute(counts).fetchone()))  # type: ignore[return-value]

    def pass_through(self, count: int) -> None:
        """Drop so many jobs and wait until all that were dropped are finished."""
        self.drop(count)
        self.settle(self._dropped)

    def processes(self) -> dict[str, Holding]:
        """What the control process holds, and each of its workers, by their process ids."""
        assert self.instance.process is not None
        pid = self.instance.process.pid
        return {str(number): holding(number) for number in (pid, *children(pid))}


def children(pid: int) -> list[int]:
    """The processes that the main thread of a process has started."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def holding(pid: int) -> Holding:
    """What a process holds now."""
    process = Path(f"/proc/{pid}")
    facts = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Holding(
        memory=1024 * int(facts["VmRSS"].split()[0]),
        descriptors=len(os.listdir(process / "fd")),
    )


@contextmanager
def crowd(folder: Path, config: str = "", *, history: int = 0) -> Iterator[Crowd]:
    """A daemon that runs in a new folder, with a history of so many finished jobs, and is ended afterwards."""
    folder.mkdir()
    instance = Instance(folder, CONFIG + config)
    instance.plugin("standin", STAND_IN)
    if history:
        (folder / "state").mkdir()
        fill(folder / "state" / LEDGER, history)
    instance.start()
    try:
        yield Crowd(instance, history)
    finally:
        if instance.process:
            instance.stop()
