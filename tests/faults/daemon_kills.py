"""A daemon that is killed again and again while jobs of all kinds keep arriving."""

from __future__ import annotations

import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from faults import killable
from faults.promise import Drop, assert_kept
from PIL import Image
from system.instance import Instance, wait_until

from atenea.config import load_config
from atenea.control import ask
from atenea.errors import AteneaError
from atenea.ledger_file import LEDGER

CONFIG = """
[watch]
settle_seconds = 0.05
rescan_seconds = 1
[tts]
plugin = "silence"
[render]
plugin = "preview"
[render.preview]
width = 64
height = 64
[post]
plugins = ["note"]
[retry]
first_seconds = 0.05
[presets.news]
priority = 1
"""

SILENCE = """
import time, wave

@hookimpl
def tts(job, ctx):
    time.sleep(0.1)  # else there would be little to kill
    path = ctx.workdir / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(9600))
    return path
"""

NOTE = """
import time

@hookimpl
def post(job, video, ctx):
    time.sleep(0.05)
    path = ctx.workdir / "note"
    path.write_text(job.text)
    ctx.attach(path, ".note.txt")
"""

_LONGEST_LIFE = 2.0
"""Seconds, from the start of the process."""

_LONGEST_AIM = 10.0
"""The same for one that is to be killed at a certain step, which it may not come to."""

_AIMED = 0.5
"""The share of lives that end at a certain step, the others at any moment."""

_AT_RECOVERY = 0.3
"""Of those that begin with half a job taken."""

_DONE_IDS = "SELECT id FROM jobs WHERE state = 'done'"
_RUNNING = "SELECT stage FROM attempts WHERE ended IS NULL"

_UNFINISHED = "SELECT 1 FROM jobs WHERE finished IS NULL LIMIT 1"

STAGES = {"intake": 0.02, "tts": 0.1, "audio": 0.1, "render": 0.1, "mux": 0.01, "post": 0.05}
"""Each stage, and within how many seconds of its beginning it is cut off."""


def _steps(sequence: str, calls: Mapping[str, int]) -> tuple[str, ...]:
    """The names of the steps of a sequence that makes each call so many times."""
    return tuple(f"{sequence}: {call} {number}" for call, most in calls.items() for number in range(1, most + 1))


_BY_RENAME = {"mkdir": 3, "renameat2": 1, "commit add_taken": 1, "end": 1}
_FILE_BY_RENAME = _steps("taking", {**_BY_RENAME, "fsync": 5})
_FOLDER_BY_RENAME = _steps("taking", {**_BY_RENAME, "syncfs": 1})
_BY_COPY = _steps(
    "taking",
    {
        "mkdir": 7,
        "renameat2": 3,
        "rmdir": 3,
        "open": 1,
        "write": 1,
        "utime": 1,
        "fsync": 8,
        "unlink": 1,
        "commit add_taken": 1,
        "commit copy_finished": 1,
        "end": 1,
    },
)
_RECOVERY = _steps("recovery", {"mkdir": 1, "renameat2": 1, "rmdir": 1, "fsync": 1, "commit add_taken": 1, "end": 1})
"""What recovery may come to: that depends on where it begins."""

_PUBLISHING = _steps(
    "publishing",
    {
        "commit begin": 1,
        "mkdir": 1,
        "open": 1,
        "write": 1,
        "replace": 1,
        "fsync": 8,
        "unlink": 3,
        "link": 3,
        "commit publish": 1,
        "renameat2": 3,
        "commit finish": 1,
        "end": 1,
    },
)
"""Of a video, its report and a note."""


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, "PNG")
    return file.getvalue()


_PICTURE = _picture()
_DONE = Drop({}, attachments=frozenset({".note.txt"}))


def _text(name: str) -> Drop:
    return replace(_DONE, files={f"{name}.txt": f"This is {name}.".encode()})


def _pictured(name: str) -> Drop:
    return replace(_DONE, files={f"{name}.png": _PICTURE, f"{name}.txt": f"This is {name}.".encode()})


def _toml(name: str) -> Drop:
    return replace(_DONE, files={f"{name}.toml": f"text = 'This is {name}.'\npriority = 5\n".encode()})


def _folder(name: str) -> Drop:
    return replace(
        _DONE,
        files={
            f"{name}/job.toml": b"text_file = 'in/text'\navatar = 'face.png'\n",
            f"{name}/in/text": f"This is {name}.".encode(),
            f"{name}/face.png": _PICTURE,
        },
    )


def _preset(name: str) -> Drop:
    return replace(_DONE, files={f"news/{name}.txt": f"This is {name}.".encode()})


def _refused(name: str) -> Drop:
    return Drop({f"{name}.toml": b"text = 5\n"}, frozenset({"failed"}))


def _cancelled(name: str) -> Drop:
    return replace(_text(name), states=frozenset({"done", "cancelled"}))


KINDS: dict[str, Callable[[str], Drop]] = {
    "text": _text,
    "pictured": _pictured,
    "toml": _toml,
    "folder": _folder,
    "preset": _preset,
    "refused": _refused,
    "cancelled": _cancelled,
}


class Ordeal:
    """One instance, its jobs and its kills; a context manager that leaves no daemon behind.

    Half of the kills come at any moment of a short life, the others at the step that was hit the least of those that
    the daemon is about to come to.

    Args:
        folder: an empty one.
        jobs: how many are dropped.
        draw: decides when, and where it is killed.
        inbox: where the inbox is, if it is on another file system than the folder.

    Attributes:
        hits: how often each step and each stage was cut off.
        kills: how many there were.
    """

    def __init__(self, folder: Path, jobs: int, draw: random.Random, inbox: Path | None = None) -> None:
        at = f"[paths]\ninbox = '{inbox}'\n" if inbox else ""
        self._instance = Instance(folder, CONFIG + at)
        self._instance.plugin("silence", SILENCE)
        self._instance.plugin("note", NOTE)
        self._inbox = inbox or self._instance.inbox
        (self._inbox / "news").mkdir()
        by_rename = {"file": _FILE_BY_RENAME, "folder": _FOLDER_BY_RENAME}
        self._taking = {"file": _BY_COPY, "folder": _BY_COPY} if inbox else by_rename
        self._config = load_config(folder / "atenea.toml")
        self._draw = draw
        self._trace = folder / "trace"
        kinds = list(KINDS)
        names = [f"{kinds[number % len(kinds)]}-{number}" for number in range(jobs)]
        self._drops = {name: KINDS[name.partition("-")[0]](name) for name in names}
        self._coming = names
        self._cancelling: list[str] = []
        self._last = ""
        self.hits: Counter[str] = Counter()
        self.kills = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._instance.process:
            self._kill(self._instance.process)

    @property
    def steps(self) -> tuple[str, ...]:
        """Every stage, and every step of taking and publishing that the jobs come to."""
        return tuple(dict.fromkeys((*STAGES, "publish", *self._taking["file"], *self._taking["folder"], *_PUBLISHING)))

    def suffer(self, kills: int) -> None:
        """Be killed so many times, and drop all jobs meanwhile."""
        jobs = len(self._coming)
        while self.kills < kills:
            self._live(drops=jobs * (self.kills + 1) // kills - (jobs - len(self._coming)))

    def end(self) -> None:
        """Let the daemon come to the end of all jobs, and compare."""
        assert not self._coming
        self._start("")
        while (finished := self._finished()) < len(self._drops):
            wait_until(lambda before=finished: self._finished() > before, "the next job to be finished")
        wait_until(self._is_ready, "the daemon to be ready")
        wait_until(self._is_tidy, "the work folders to be removed")
        assert self._instance.stop() == 0
        assert_kept(self._instance.folder, self._drops, inbox=self._inbox)

    def _live(self, drops: int) -> None:
        aim = self._aim(drops)
        certain = aim and aim not in _RECOVERY
        process = self._start(aim)
        began = time.monotonic()
        end = began + (_LONGEST_AIM if certain else self._draw.uniform(0, _LONGEST_LIFE))
        moments = sorted(self._draw.uniform(began, min(end, began + _LONGEST_LIFE)) for _ in range(drops))
        while time.monotonic() < end and process.poll() is None:
            while moments and moments[0] <= time.monotonic():
                moments.pop(0)
                self._drop()
            self._cancel()
            time.sleep(0.02)
        for _ in moments:
            self._drop()
        assert self._kill(process) == -signal.SIGKILL, self._instance.log.read_text()[-4000:]
        self._instance.process = None
        self.kills += 1
        self._count()

    def _aim(self, drops: int) -> str:
        """The step to be killed at; "" for any moment."""
        if self._last.startswith("taking") and self._draw.random() < _AT_RECOVERY:
            return self._draw.choice(_RECOVERY)
        if self._draw.random() > _AIMED:
            return ""
        if drops:
            steps = self._taking["folder" if self._coming[0].startswith("folder") else "file"]
        elif self._rows(_UNFINISHED):
            steps = (*STAGES, *_PUBLISHING)
        else:
            return ""
        return min(steps, key=lambda step: (self.hits[step], self._draw.random()))

    def _kill(self, process: subprocess.Popen[bytes]) -> int:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()

    def _start(self, aim: str) -> subprocess.Popen[bytes]:
        self._trace.write_bytes(bytes(killable.TRACE_BYTES))
        seconds = self._draw.uniform(0, STAGES.get(aim, 0))
        driver = [sys.executable, killable.__file__ or "", str(self._trace), aim, str(seconds)]
        with self._instance.log.open("ab") as log:
            self._began = log.tell()
            self._instance.process = subprocess.Popen(
                [*driver, "run", "--config", str(self._instance.folder / "atenea.toml")],
                stdout=log,
                stderr=log,
                cwd=self._instance.folder,
                env=self._instance.environment,
                start_new_session=True,
            )
        return self._instance.process

    def _is_ready(self) -> bool:
        with self._instance.log.open("rb") as log:
            log.seek(self._began)
            return b'"event": "ready"' in log.read()

    def _drop(self) -> None:
        name = self._coming.pop(0)
        files = self._drops[name].files
        if f"{name}/job.toml" in files:
            staging = self._inbox / f".{name}"
            for path, data in files.items():
                (staging / Path(path).relative_to(name)).parent.mkdir(parents=True, exist_ok=True)
                (staging / Path(path).relative_to(name)).write_bytes(data)
            staging.rename(self._inbox / name)
        else:
            for path, data in files.items():
                (self._inbox / path).write_bytes(data)
        if name.startswith("cancelled"):
            self._cancelling.append(name)

    def _cancel(self) -> None:
        """Cancel what has been taken by now; if the daemon is killed meanwhile, nobody knows whether it was in time.

        Not while it starts: a command that finds no daemon holds the state folder, and the daemon would not start.
        """
        for name in self._cancelling[:] if self._cancelling and self._is_ready() else ():
            with suppress(AteneaError, OSError):
                ask(self._config, "cancel", job=name)
                self._cancelling.remove(name)

    def _rows(self, query: str) -> list[tuple[str]]:
        path = self._instance.folder / "state" / LEDGER
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as db:
            try:
                return db.execute(query).fetchall()
            except sqlite3.OperationalError:  # not set up yet
                return []

    def _count(self) -> None:
        self._last = self._trace.read_bytes().rstrip(b"\0").decode()
        stages = [stage for (stage,) in self._rows(_RUNNING)]
        for hit in {self._last, *stages} - {""} or {"at rest"}:
            self.hits[hit] += 1

    def _is_tidy(self) -> bool:
        jobs = self._instance.folder / "state" / "jobs"
        return not any((jobs / job_id / "work").exists() for (job_id,) in self._rows(_DONE_IDS))

    def _finished(self) -> int:
        return len(self._rows("SELECT name FROM jobs WHERE finished IS NOT NULL AND copied = 0"))
