"""`atenea models ...` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 120.0


@dataclass
class Command:
    """`atenea models ...` in a folder of its own; the models lie in `folder`."""

    home: Path
    environment: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.home / "models"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "atenea", "models", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run it to its end; what it printed, and its complaints without the lines of progress."""
        return self.finish(self.start(*arguments), code)

    def finish(self, process: subprocess.Popen[str], code: int) -> tuple[str, str]:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == code, (process.returncode, output, errors)
        complaints = [line for line in errors.splitlines() if not line.startswith(("download: ", "check: "))]
        return output, "\n".join(complaints)

    def interrupt(self, process: subprocess.Popen[str]) -> str:
        process.send_signal(signal.SIGINT)
        return self.finish(process, 130)[1]
