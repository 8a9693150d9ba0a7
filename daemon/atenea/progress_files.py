"""NAME.progress.txt in the outbox while a job runs: for people who only have scp."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import structlog

from atenea.config import Config
from atenea.durations import spoken_duration
from atenea.ledger import Ledger
from atenea.progress import Progress
from atenea.publisher import HIDDEN_PREFIX, Publisher
from atenea.rows import JobRow

log = structlog.get_logger()

_SUFFIX = ".progress.txt"


class ProgressFiles:
    """The progress files of one outbox; does nothing unless the configuration wants them."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config = config
        self._outbox = config.paths.outbox
        self._ledger = ledger
        self._publisher = Publisher(config.paths.outbox, ledger)
        self._written: dict[str, Path] = {}

    def tidy(self) -> None:
        """Remove what a daemon that was killed left behind, and nothing that is somebody else's."""
        for path in self._outbox.glob(f"*{_SUFFIX}"):
            if self._ledger.has_stem(path.name.removesuffix(_SUFFIX)):
                path.unlink(missing_ok=True)

    def update(self, running: Mapping[str, Progress]) -> None:
        """Write the files of the jobs that run, and remove those of the jobs that do not any more."""
        try:
            self._bring_up_to_date(running if self.config.outbox.progress_files else {})
        except (OSError, sqlite3.Error) as error:
            log.warning("the progress files cannot be written", error=str(error))

    def _bring_up_to_date(self, running: Mapping[str, Progress]) -> None:
        for job_id in set(self._written) - set(running):
            self._written.pop(job_id).unlink(missing_ok=True)
        for job_id, progress in running.items():
            job = self._ledger.job(job_id)
            if job and progress.stage not in {"intake", "publish"}:
                self._write(job, progress)

    def clear(self) -> None:
        """Remove all of them."""
        self.update({})

    def _write(self, job: JobRow, progress: Progress) -> None:
        stem = self._publisher.claim_stem(job)
        if job.stem is None:
            self._ledger.choose_stem(job, stem)
        path = self._outbox / f"{stem}{_SUFFIX}"
        hidden = self._outbox / f"{HIDDEN_PREFIX}{job.id}{_SUFFIX}"
        hidden.unlink(missing_ok=True)
        with hidden.open("x", encoding="utf-8") as file:  # a new one: others may write into the outbox, links too
            file.write(f"{_sentence(progress)}\n")
        hidden.replace(path)
        self._written[job.id] = path


def _sentence(progress: Progress) -> str:
    left = progress.seconds_left
    parts = [
        f"{progress.plugin or progress.stage}: {progress.fraction:.0%}",
        progress.text,
        f"about {spoken_duration(left)} left" if left is not None else "",
    ]
    return ", ".join(part for part in parts if part)
