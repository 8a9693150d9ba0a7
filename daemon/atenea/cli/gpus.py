"""How busy the machine's NVIDIA GPUs are, as far as the driver's own program says it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

_PROGRAM = "nvidia-smi"
_QUERY = ("--query-gpu=index,utilization.gpu,memory.used,memory.total,name", "--format=csv,noheader,nounits")
_EVERY_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        load: how much of the last moment it worked, from 0 to 1; None if the driver does not say (as of a divided one).
        used: memory in use, in GiB; None likewise.
        total: its memory, in GiB; None likewise.
    """

    index: int
    name: str
    load: float | None
    used: float | None
    total: float | None


class Gpus:
    """Asks `nvidia-smi`, where there is one, every two seconds at most, and never waits for it. A context manager."""

    def __init__(self) -> None:
        self._program = shutil.which(_PROGRAM)
        self._asked = -_EVERY_SECONDS
        self._asking: subprocess.Popen[str] | None = None
        self._found: list[Gpu] = []

    def __enter__(self) -> Gpus:
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking:
            self._asking.kill()
            self._asking.communicate()

    def look(self) -> list[Gpu]:
        """What was last heard of all GPUs; nothing where there are none."""
        now = time.monotonic()
        if self._asking and self._asking.poll() is not None:
            said, _ = self._asking.communicate()
            self._found = list(parse_gpus(said)) if self._asking.returncode == 0 else []
            self._asking = None
        elif self._asking and now - self._asked > _PATIENCE_SECONDS:
            self._asking.kill()
        if self._program and not self._asking and now - self._asked >= _EVERY_SECONDS:
            self._ask(self._program)
            self._asked = now
        return self._found

    def _ask(self, program: str) -> None:
        try:
            self._asking = subprocess.Popen(
                [program, *_QUERY],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError:
            self._program = None


def parse_gpus(said: str) -> Iterator[Gpu]:
    """The GPUs that lines of `nvidia-smi` tell of; what is no such line is left out."""
    for line in said.splitlines():
        values = [value.strip() for value in line.split(",", 4)]
        if len(values) == 5 and values[0].isdecimal():
            load, used, total = (_number(value) for value in values[1:4])
            yield Gpu(
                index=int(values[0]),
                name=values[4],
                load=None if load is None else load / 100,
                used=None if used is None else used / 1024,
                total=None if total is None else total / 1024,
            )


def _number(text: str) -> float | None:
    """None for "[N/A]" and the like."""
    return float(text) if text.isdecimal() else None
