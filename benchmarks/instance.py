"""A daemon of its own for a benchmark: a folder, a configuration, a process, and its log."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from atenea.config import Config, load_config
from atenea.control import ask

PATIENCE_SECONDS = 600.0


class Instance:
    """Starts on entering the context, ends on leaving it; the configuration has defaults everywhere."""

    def __init__(self, folder: Path, *, paused: bool = False) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.log = folder / "log"
        self.config_file = folder / "atenea.toml"
        self._paused = paused

    def __enter__(self) -> Instance:
        self.inbox.mkdir(parents=True)
        self.config_file.touch()
        self.started = time.time()
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "atenea", "run", "--config", str(self.config_file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.ready_seconds = moment(next(self.follow("ready"))) - self.started
        if self._paused:
            ask(self.config, "pause")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)

    @property
    def config(self) -> Config:
        """What the daemon was started with."""
        return load_config(self.config_file)

    def follow(self, event: str, patience: float = PATIENCE_SECONDS) -> Iterator[dict[str, Any]]:
        """The log's lines of one kind, from its start on and as they come.

        Raises:
            TimeoutError: none came for `patience` seconds.
        """
        deadline = time.monotonic() + patience
        with self.log.open(encoding="utf-8") as log:
            rest = ""
            while time.monotonic() < deadline:
                rest += log.readline()
                if not rest.endswith("\n"):
                    if self.process.poll() is not None:
                        raise RuntimeError(self.log.read_text(encoding="utf-8"))
                    time.sleep(0.01)
                    continue
                line, rest = rest, ""
                if line.startswith("{") and (entry := json.loads(line))["event"] == event:
                    yield entry
                    deadline = time.monotonic() + patience
        raise TimeoutError(f"no {event!r} in the log for {patience:g} s")


def moment(entry: dict[str, Any]) -> float:
    """When a line was logged, in seconds since 1970."""
    return datetime.datetime.fromisoformat(entry["timestamp"]).timestamp()
