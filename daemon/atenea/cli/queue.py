"""The commands about the queue: submit, jobs, show, cancel, retry, pause, resume."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from atenea.cli.app import ConfigOption, JsonOption, app, examples
from atenea.cli.details import detail_lines
from atenea.cli.display import StepDisplay, job_line, job_table, note
from atenea.cli.provenance import ProvenanceOption, TrustOption, show_provenance
from atenea.cli.watch import watch as watch_queue
from atenea.config import load_config
from atenea.control import ask
from atenea.errors import ExitCode, UsageError
from atenea.naming import printable
from atenea.queue_desk import MOST, RECENT
from atenea.submission import Submitted, submit_file

_POLL_SECONDS = 0.2

_JOB = typer.Argument(metavar="JOB", help="A job's id, or its name for the newest of that name.")
JobArgument = Annotated[str, _JOB]
OptionalJobArgument = Annotated[str | None, _JOB]


@app.command(epilog=examples("atenea submit hello.txt", "atenea submit --wait news/*.toml"))
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Texts, TOML job files or job folders.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the progress and wait; exits with 1 if a job fails.")
    ] = False,
    config: ConfigOption = None,
) -> int:
    """Put jobs into the inbox, with the files that they name. Prints where they are; a name in use gets a number."""
    settings = load_config(config)
    submitted = [submit_file(file, settings.paths.inbox, settings.presets) for file in files]
    if not wait:
        for job in submitted:
            typer.echo(os.fsencode(job.path))  # as it is, if it is no UTF-8 too
        return ExitCode.DONE
    results = [_wait(settings, job) for job in submitted]
    return ExitCode.DONE if all(results) else ExitCode.FAILED


def _wait(settings: Any, submitted: Submitted) -> bool:
    """Follow a job to its end; whether it is done."""
    with StepDisplay() as display:
        while True:
            answer = ask(settings, "taken", device=submitted.device, inode=submitted.inode)
            if not answer["daemon"]:
                raise UsageError(
                    f"no daemon is running; {printable(submitted.path.name)} waits in the inbox for one: atenea run"
                )
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


@app.command(epilog=examples("atenea jobs", "atenea jobs --watch", "atenea jobs --json | jq -r '.jobs[].name'"))
def jobs(
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until Ctrl+C; in a pipe, what changes.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=0, max=MOST, help="How many finished jobs to show.")] = RECENT,
    config: ConfigOption = None,
) -> None:
    """Show the queue, and what finished last. Unfinished jobs stand in the order in which they are served."""
    settings = load_config(config)
    if watch:
        watch_queue(settings, limit, as_json=as_json)
        return
    answer = ask(settings, "jobs", limit=limit)
    console = Console()
    if as_json:
        print(json.dumps(answer))
    elif console.is_terminal:
        console.print(job_table(answer))
    else:
        for job in answer["jobs"]:
            print(job_line(job))


@app.command(epilog=examples("atenea show hello", "atenea show hello --json | jq .error"))
def show(
    job: OptionalJobArgument = None,
    as_json: JsonOption = False,
    provenance: ProvenanceOption = None,
    trust: TrustOption = None,
    config: ConfigOption = None,
) -> int:
    """Show one job: state, stages, failed attempts, files and log.

    Of each stage it says how long it waited and ran, of the log the last lines.
    """
    if provenance:
        return show_provenance(provenance, trust, as_json=as_json)
    if job is None:
        raise UsageError("show: name a job; or a video, to see how it was made: --provenance FILE")
    details = ask(load_config(config), "show", job=job)
    if as_json:
        print(json.dumps(details))
    else:
        print("\n".join(detail_lines(details)))
    return ExitCode.DONE


@app.command()
def cancel(job: JobArgument, config: ConfigOption = None) -> None:
    """Cancel a job. A stage that runs is told to stop, and ended after 10 seconds."""
    answer = ask(load_config(config), "cancel", job=job)
    _say(answer, "is cancelled" if answer["job"]["finished"] else "is being cancelled")


@app.command()
def retry(job: JobArgument, config: ConfigOption = None) -> None:
    """Try a failed or cancelled job again. It goes on after its last finished stage."""
    _say(ask(load_config(config), "retry", job=job), "is queued again")


def _say(answer: dict[str, Any], what: str) -> None:
    print(f"{answer['job']['name']} ({answer['job']['id']}) {what}")


@app.command()
def pause(config: ConfigOption = None) -> None:
    """Start no new stages until `atenea resume`. What runs is finished; jobs are still taken and checked."""
    ask(load_config(config), "pause")
    print("the queue is paused")


@app.command()
def resume(config: ConfigOption = None) -> None:
    """Start stages again after `atenea pause`."""
    ask(load_config(config), "resume")
    print("the queue goes on")
