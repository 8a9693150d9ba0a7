"""What the process does that a test kills at a step of taking or of publishing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from faults.kill_points import NOTHING, Step, watched
from structlog.testing import capture_logs

from atenea.config import Config, load_config
from atenea.inbox.scan import Scanner
from atenea.inbox.taking import Taker
from atenea.ledger import Ledger
from atenea.ledger_file import LEDGER
from atenea.publisher import Publisher
from atenea.step_runner import StepRunner


def config_of(folder: Path) -> Config:
    return load_config(folder / "atenea.toml")


def take(folder: Path) -> None:
    """Recover, and take what is in the inbox."""
    config = config_of(folder)
    presets = frozenset(config.presets)
    with closing(Ledger(config.paths.state / LEDGER)) as ledger:
        taker = Taker(config.paths.inbox, config.paths.state, presets, ledger, report=print)
        taker.recover()
        scanner = Scanner(config.paths.inbox, presets, 0, report=print)
        scanner.scan()
        taker.take(scanner.scan().settled)
        taker.take([])


def publish(folder: Path) -> None:
    """Tidy up, and publish what is next to be published."""
    config = config_of(folder)
    with closing(Ledger(config.paths.state / LEDGER)) as ledger, capture_logs():
        Publisher(config.paths.outbox, ledger).tidy()
        runner = StepRunner(config, ledger, None, None)  # type: ignore[arg-type] - nothing else is run
        for job in ledger.active():
            runner._publish_now(job, ledger.steps(job.id)[job.position])


def killed(work: Callable[[Path], None], folder: Path, at: int, log: Path) -> None:
    """Do the work in this process, which kills itself before the step of that number."""
    with log.open("a") as lines:

        def on_step(step: Step) -> None:
            nonlocal at
            if step == NOTHING or not step.sequence:
                return
            if at == 0:
                lines.write(f"{step.sequence}: {step.call}\n")
                lines.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            at -= 1

        with watched(on_step):
            work(folder)
