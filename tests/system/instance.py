"""A real daemon in a folder of its own, used as people use it: by files, commands and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atenea.config import load_config
from atenea.control import look

PATIENCE_SECONDS = 120.0
"""For what must come; only a failure takes so long, and a busy machine must not look like one."""


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait for a true value of `condition`, and return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s for {what}"
        time.sleep(0.02)
    return value


class Instance:
    """A folder with a configuration, an inbox and an outbox, and the daemon that serves it."""

    def __init__(self, folder: Path, config: str = "", environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.inbox = folder / "inbox"
        self.outbox = folder / "outbox"
        self.plugins = folder / "plugins"
        self.log = folder / "log"
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        for path in (self.inbox, self.outbox, self.plugins):
            path.mkdir()
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration.

        Unless it says otherwise, files settle fast, two stages run at once however many processors there are, and
        videos are not marked.
        """
        watch = "" if "[watch]" in config else "[watch]\nsettle_seconds = 0.1\nrescan_seconds = 1\n"
        workers = "" if "[workers]" in config else "\n[workers]\ncpu = 2\n"
        marks = "" if "provenance" in config else "\n[post.provenance]\nenabled = false\n"
        (self.folder / "atenea.toml").write_text(watch + config + workers + marks)

    def plugin(self, name: str, code: str) -> None:
        """Drop a plugin into the plugins folder."""
        (self.plugins / f"{name}.py").write_text(f"from atenea import *\nfrom pathlib import Path\n{code}")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "atenea", *arguments]

    def atenea(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of this instance to its end."""
        done = subprocess.run(
            self.command(*arguments, "--config", str(self.folder / "atenea.toml")),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            cwd=self.folder,
            env=self.environment,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def ask(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self.atenea(*arguments, "--json").stdout)

    def start(self) -> Instance:
        """Start the daemon and wait until it is ready."""
        before = len(self.events("ready"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run", "--config", str(self.folder / "atenea.toml")),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self.environment,
            )
        wait_until(lambda: len(self.events("ready")) > before or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log.read_text()
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon by a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return code

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the log, all or those of one kind; without what is being written, or was when it was killed."""
        if not self.log.exists():
            return []
        lines = [line for line in self.log.read_text().split("\n") if line.startswith("{") and line.endswith("}")]
        return [entry for entry in map(json.loads, lines) if event in {None, entry["event"]}]

    def drop(self, name: str, content: str | bytes) -> Path:
        """Write a file into the inbox as scp does: under its own name."""
        path = self.inbox / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def output(self, name: str) -> Path:
        """Wait for a file in the outbox."""
        path = self.outbox / name
        wait_until(path.exists, f"{name}; the outbox has {self.outputs()}")
        return path

    def outputs(self) -> list[str]:
        """The names of all files in the outbox."""
        return sorted(os.listdir(self.outbox))

    def job(self, name: str) -> dict[str, Any]:
        """What `atenea show` says about a job."""
        shown: dict[str, Any] = self.ask("show", name)
        return shown

    def wait_for_state(self, name: str, state: str) -> dict[str, Any]:
        """Wait until the job is in a state."""
        return self.wait_for_job(name, lambda job: job["state"] == state, f"to be {state}")

    def wait_for_job(self, name: str, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until the job, as `atenea jobs` shows it, is as the condition wants it; asks without that command."""
        config = load_config(self.folder / "atenea.toml")

        def find() -> dict[str, Any] | None:
            jobs = [job for job in look(config, "jobs")["jobs"] if job["name"] == name]
            return jobs[0] if jobs and condition(jobs[0]) else None

        found: dict[str, Any] = wait_until(find, f"{name} {what}")
        return found


NewInstance = Callable[..., Instance]

RENDER_STUB = '''
import wave, av, numpy as np

@hookimpl
def render(job, wav, ctx):
    """A small grey picture of the right length."""
    with wave.open(str(wav)) as sound:
        frames = -(-sound.getnframes() * 25 // 16000)
    path = ctx.workdir / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        grey = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8))
        for number in range(frames):
            grey.pts = number
            container.mux(stream.encode(grey))
        container.mux(stream.encode())
    return path
'''
