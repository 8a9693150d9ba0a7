"""Groups of processes with a limit that the kernel itself holds them to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from system.instance import wait_until

_ROOT = Path("/sys/fs/cgroup")


@contextmanager
def limited_memory(most: int) -> Iterator[Path]:
    """A group that may use so many bytes; write a process id into the file `cgroup.procs` in it."""
    unified = (_ROOT / "cgroup.controllers").exists()
    folder = (_ROOT if unified else _ROOT / "memory") / f"atenea-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        limit = folder / ("memory.max" if unified else "memory.limit_in_bytes")
        if not limit.exists():
            pytest.skip("the memory of control groups is not limited here")
        limit.write_text(str(most))
        with suppress(OSError):  # a kernel without swap has no such file
            (folder / ("memory.swap.max" if unified else "memory.memsw.limit_in_bytes")).write_text(
                "0" if unified else str(most)
            )
        yield folder
    finally:
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the group to be empty")
        folder.rmdir()
