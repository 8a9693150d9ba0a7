"""The daemon, which says at which step of taking and publishing it is, and kills itself there if it is told to.

`python killable.py TRACE SEQUENCE NUMBER COMMAND...`: TRACE is a file of `TRACE_BYTES`, which always holds the present
step; when the process comes to step NUMBER of SEQUENCE ("" for never), it kills its process group.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.kill_points import Step, watched

from atenea.cli import main

TRACE_BYTES = 64


def run(trace_file: Path, sequence: str, number: int) -> None:
    """Run the command that is left in `sys.argv`."""
    with trace_file.open("r+b") as file, mmap.mmap(file.fileno(), TRACE_BYTES) as trace:

        def on_step(step: Step) -> None:
            name = f"{step.sequence}: {step.call}" if step.sequence else ""
            trace[:] = name.encode().ljust(TRACE_BYTES, b"\0")
            if sequence and (step.sequence, step.number) == (sequence, number):
                os.killpg(0, signal.SIGKILL)

        with watched(on_step):
            main()


if __name__ == "__main__":
    trace_, sequence_, number_, *command = sys.argv[1:]
    sys.argv = ["atenea", *command]
    run(Path(trace_), sequence_, int(number_))
