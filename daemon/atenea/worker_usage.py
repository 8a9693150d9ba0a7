"""Ends workers that use more than a stage may: memory, with all that a plugin started, or room in the work folder.

Without this a plugin that leaks leaves it to the kernel whom to end, and one that writes without end fills the disk of
all jobs. The processes of a worker are those of its session. A look each second is no exact bound: who takes gigabytes
faster than that is still the kernel's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from atenea.config import Limits
from atenea.retention import folder_size
from atenea.threads import in_thread
from atenea.worker_process import WorkerProcess

GIGABYTE = 1_000_000_000
_LOOK_SECONDS = 1.0
_PAUSES = 10
"""Looking takes at most one part in so many of the time: a work folder may hold very many files."""

_PROC = Path("/proc")
_ROUGHLY = ("RssAnon", "RssShmem", "VmSwap")
_EXACTLY = ("Pss_Anon", "Pss_Shmem", "SwapPss")
"""Not mapped files, as weights of models are: the kernel takes that memory back when it needs it."""


@dataclass(eq=False)
class Watched:
    """One task of a worker.

    Attributes:
        workdir: where it works; None for one that has no folder.
        excess: once it was ended for using too much, how much of what, for the end of a sentence.
        lasting: whether it would do so again.
    """

    worker: WorkerProcess
    workdir: Path | None
    excess: str | None = None
    lasting: bool = False


@dataclass(frozen=True)
class _Use:
    """Bytes that a task uses."""

    memory: int
    work: int


class UsageWatch:
    """Looks at what the workers at work use. Use it within one event loop, and `close` it there.

    Args:
        limits: asked for the limits at each look.
    """

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self._watched: set[Watched] = set()
        self._looks: asyncio.Task[None] | None = None

    @contextmanager
    def over(self, worker: WorkerProcess, workdir: Path | None) -> Iterator[Watched]:
        """Watch a worker during its task."""
        watched = Watched(worker, workdir)
        self._watched.add(watched)
        if self._looks is None or self._looks.done():
            self._looks = asyncio.create_task(self._look_while_needed())
        try:
            yield watched
        finally:
            self._watched.discard(watched)

    async def close(self) -> None:
        """Look no more."""
        if self._looks:
            self._looks.cancel()
            await asyncio.wait([self._looks])

    async def _look_while_needed(self) -> None:
        while self._watched:
            began = time.monotonic()
            with suppress(OSError, RuntimeError):  # no descriptor, or no thread: the next look may have them
                await self._look()
            await asyncio.sleep(max(_LOOK_SECONDS, _PAUSES * (time.monotonic() - began)))

    async def _look(self) -> None:
        limits = self._limits()
        # Each worker's status here, in the loop, which closes it when the worker is gone.
        tasks = [(watched, watched.worker.status()) for watched in self._watched]
        for watched, use in await in_thread(_measure, tasks, limits.memory_gigabytes * GIGABYTE):
            if watched in self._watched and watched.excess is None:
                _judge(watched, use, limits)


def _judge(watched: Watched, use: _Use, limits: Limits) -> None:
    """End the worker if its task uses too much."""
    if use.memory > limits.memory_gigabytes * GIGABYTE:
        key, used = "memory_gigabytes", f"used {decimal(use.memory)} of memory"
    elif use.work > limits.work_gigabytes * GIGABYTE:
        key, used = "work_gigabytes", f"wrote {decimal(use.work)} into its work folder"
    else:
        return
    watched.excess = f"{used} and was ended; raise limits.{key} if it needs so much"
    watched.lasting = key == "work_gigabytes"
    watched.worker.kill()


def _measure(tasks: Iterable[tuple[Watched, str]], most_memory: float) -> list[tuple[Watched, _Use]]:
    members = _sessions()
    found = []
    for watched, status in tasks:
        leader = watched.worker.pid
        memory = _memory(status, leader, members.get(leader, set()) - {leader}, most_memory)
        found.append((watched, _Use(memory, folder_size(watched.workdir) if watched.workdir else 0)))
    return found


def _memory(status: str, leader: int, others: set[int], most: float) -> int:
    """Bytes that the leader of a session, whose status this is, and the other processes in it use.

    What forks share is counted once for each of them, and exactly only if that makes the difference: it takes long.
    """
    shares = [sum(_numbers(_read(_PROC / str(pid) / "status"), _ROUGHLY)) for pid in others]
    roughly = sum(_numbers(status, _ROUGHLY)) + sum(shares)
    if roughly <= most or not any(shares):
        return roughly
    exactly = [_numbers(_read(_PROC / str(pid) / "smaps_rollup"), _EXACTLY) for pid in (leader, *others)]
    return sum(map(sum, exactly)) if all(exactly) else roughly


def _sessions() -> dict[int, set[int]]:
    """The processes of each session, as far as they can be seen."""
    found: dict[int, set[int]] = {}
    for process in _PROC.glob("[0-9]*"):
        _, _, rest = _read(process / "stat").rpartition(")")
        if rest:
            _state, _parent, _group, session, *_ = rest.split()
            found.setdefault(int(session), set()).add(int(process.name))
    return found


def _read(path: Path) -> str:
    """What a file of /proc says; nothing if its process is gone, or may not be looked at."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _numbers(text: str, names: tuple[str, ...]) -> list[int]:
    """The values of these lines (`Name:  123 kB`), in bytes."""
    lines = (line.partition(":") for line in text.splitlines())
    return [1024 * int(value.split()[0]) for name, _, value in lines if name in names]
