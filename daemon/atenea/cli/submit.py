"""`atenea submit`: into the inbox, and to the end if one waits for it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from atenea.cli.app import CommandWithArguments, ConfigOption, app, examples
from atenea.cli.display import StepDisplay
from atenea.cli.lines import note
from atenea.config import Config, load_config
from atenea.control import ask
from atenea.errors import ExitCode, UsageError
from atenea.naming import printable
from atenea.submission import Submitted, submit_file

_POLL_SECONDS = 0.2


@app.command(cls=CommandWithArguments, epilog=examples("atenea submit hello.txt", "atenea submit --wait news/*.toml"))
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Texts, TOML job files or job folders.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the progress and wait; exits with 1 if a job fails.")
    ] = False,
    config: ConfigOption = None,
) -> int:
    """Put jobs into the inbox, with the files that they name. Prints where they are; a name in use gets a number."""
    settings = load_config(config)
    if wait:
        _require_daemon(settings)
    submitted = [submit_file(file, settings.paths.inbox, settings.presets) for file in files]
    if not wait:
        for job in submitted:
            typer.echo(os.fsencode(job.path))  # as it is, if it is no UTF-8 too
        return ExitCode.DONE
    results = [_wait(settings, job) for job in submitted]
    return ExitCode.DONE if all(results) else ExitCode.FAILED


def _require_daemon(settings: Config) -> None:
    """Refuse to wait before anything is in the inbox: whoever tries again would submit it twice."""
    if not ask(settings, "taken", device=0, inode=0)["daemon"]:
        raise UsageError("no daemon is running; start it (atenea run), or submit without --wait")


def _wait(settings: Config, submitted: Submitted) -> bool:
    """Follow a job to its end; whether it is done."""
    with StepDisplay() as display:
        while True:
            answer = ask(settings, "taken", device=submitted.device, inode=submitted.inode)
            if not answer["daemon"]:
                name = printable(submitted.path.name)
                raise UsageError(f"the daemon has ended; {name} goes on when one runs again: atenea run")
            job = answer["job"]
            if job and job["state"] == "done":
                display.complete()
            if job and job["finished"]:
                break
            if job and job["running"]:
                step = job["plugin"] or job["stage"]
                display.show(step, job["fraction"], job["progress"], job["seconds_left"], job["frames_per_second"])
            time.sleep(_POLL_SECONDS)
    if job["state"] == "done":
        outputs = ask(settings, "show", job=job["id"])["outputs"]
        typer.echo(next(path for path in outputs if path.endswith(".mp4")))
        return True
    print(f"atenea: {job['name']}: {job['state']}: {note(job)}", file=sys.stderr)
    return False
