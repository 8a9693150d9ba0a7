"""Somebody who exchanges files and folders of the inbox for others, all the time, as fast as the system lets him."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)

CANARY = "canary-5d1c7e0b"
"""Stands in every file outside; wherever else it turns up, something outside was read."""


def exchange(one: Path, other: Path) -> bool:
    """Give two things each other's name at once; False when one of them is not there (any more)."""
    return not _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


class Swapper:
    """Counts how often it could exchange each pair."""

    def __init__(self) -> None:
        self.swaps = 0

    @contextmanager
    def at_work(self, *pairs: tuple[Path, Path]) -> Iterator[None]:
        """Exchange the pairs in a thread until the end, when each is as it was or gone."""
        ends = threading.Event()

        def work() -> None:
            while not ends.is_set():
                for one, other in pairs:
                    if exchange(one, other):
                        self.swaps += 1
                        exchange(other, one)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()


def outside(folder: Path, *names: str) -> Path:
    """A folder that is nobody's business, with a canary in each of the files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text = '{CANARY}'\n")
        (folder / name).chmod(0o600)
    return folder


def facts(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: modes, change times and contents."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def with_the_canary(*folders: Path) -> list[str]:
    """Every regular file below the folders that has the canary in its name or its bytes."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_symlink() or not path.is_file():
                continue
            if CANARY in path.name or CANARY.encode() in path.read_bytes():
                found.append(str(path))
    return found
