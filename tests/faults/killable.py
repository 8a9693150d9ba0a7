"""The daemon, which says at which step of taking and publishing it is, and kills itself where it is told to.

`python killable.py TRACE AIM SECONDS COMMAND...`: TRACE is a file of `TRACE_BYTES`, which always holds the present
step. AIM is one ("publishing: fsync 4" is the fourth call of fsync while one job is published), or a stage ("render"),
or "": when the process comes to the step, or is SECONDS into the stage, it kills its process group.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.kill_points import Step, watched

from atenea.cli import main
from atenea.ledger import Ledger
from atenea.rows import JobRow, StepRow

TRACE_BYTES = 64


class _Killer:
    def __init__(self, trace: mmap.mmap, aim: str, seconds: float) -> None:
        self._trace = trace
        self._aim = aim
        self._seconds = seconds
        self._made: dict[str, Counter[str]] = {}

    def on_step(self, step: Step) -> None:
        """A step of taking, recovery or publishing is about to be made."""
        name = self._name(step) if step.sequence else ""
        self._trace[:] = name.encode().ljust(TRACE_BYTES, b"\0")
        if name and name == self._aim:
            kill_group()

    def on_stage(self, stage: str) -> None:
        """A stage has begun."""
        if stage == self._aim:
            timer = threading.Timer(self._seconds, kill_group)
            timer.daemon = True
            timer.start()

    def _name(self, step: Step) -> str:
        if step.number == 0:
            self._made[step.sequence] = Counter()
        self._made[step.sequence][step.call] += 1
        return f"{step.sequence}: {step.call} {self._made[step.sequence][step.call]}"


def kill_group() -> None:
    """End this process and its children, as nobody can prevent."""
    os.killpg(0, signal.SIGKILL)


def run(trace_file: Path, aim: str, seconds: float) -> None:
    """Run the command that is left in `sys.argv`."""
    with trace_file.open("r+b") as file, mmap.mmap(file.fileno(), TRACE_BYTES) as trace:
        killer = _Killer(trace, aim, seconds)
        with watched(killer.on_step):
            enter = Ledger.begin

            def begin(ledger: Ledger, job: JobRow, step: StepRow) -> Any:
                attempt = enter(ledger, job, step)
                killer.on_stage(step.stage)
                return attempt

            with mock.patch.object(Ledger, "begin", begin):
                main()


if __name__ == "__main__":
    trace_, aim_, seconds_, *command = sys.argv[1:]
    sys.argv = ["atenea", *command]
    run(Path(trace_), aim_, float(seconds_))
