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
from rich.live import Live

from atenea.cli.app import ConfigOption, JsonOption, app
from atenea.cli.display import StepDisplay, job_lines, job_table, note
from atenea.config import load_config
from atenea.control import ask
from atenea.durations import spoken_duration
from atenea.errors import ExitCode, UsageError
from atenea.naming import printable
from atenea.queue_desk import MOST, RECENT
from atenea.submission import Submitted, submit_file

_REFRESH_SECONDS = 0.5
_POLL_SECONDS = 0.2

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or its name for the newest of that name.")]


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Texts, TOML job files or job folders.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results; exit 1 if one fails.")] = False,
    config: ConfigOption = None,
) -> int:
    """Put jobs into the inbox safely, with the files that they name."""
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
                display.show(job["plugin"] or job["stage"], job["fraction"], job["progress"], job["seconds_left"])
            time.sleep(_POLL_SECONDS)
    if job["state"] == "done":
        outputs = ask(settings, "show", job=job["id"])["outputs"]
        typer.echo(next(path for path in outputs if path.endswith(".mp4")))
        return True
    print(f"atenea: {job['name']}: {job['state']}: {note(job)}", file=sys.stderr)
    return False


@app.command()
def jobs(
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing, until interrupted.")] = False,
    limit: Annotated[int, typer.Option(min=0, max=MOST, help="How many finished jobs to show.")] = RECENT,
    config: ConfigOption = None,
) -> None:
    """Show the queue, and what finished last."""
    settings = load_config(config)
    console = Console()

    def show() -> dict[str, Any]:
        return ask(settings, "jobs", limit=limit)

    def print_lines() -> None:
        answer = show()
        for line in [json.dumps(answer)] if as_json else job_lines(answer):
            print(line, flush=True)

    if not watch and (as_json or not console.is_terminal):
        print_lines()
    elif not watch:
        console.print(job_table(show()))
    elif as_json or not console.is_terminal:
        while True:
            print_lines()
            time.sleep(_REFRESH_SECONDS)
    else:
        with Live(job_table(show()), console=console, auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(_REFRESH_SECONDS)
                live.update(job_table(show()), refresh=True)


@app.command()
def show(job: JobArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one job: its state, stages, attempts and files."""
    details = ask(load_config(config), "show", job=job)
    if as_json:
        print(json.dumps(details))
        return
    print("\n".join(_details(details)))


def _details(job: dict[str, Any]) -> list[str]:
    lines = [f"{job['name']} ({job['id']}): {job['state']}"]
    if job["running"]:
        left = f", {spoken_duration(job['seconds_left'])} left" if job["seconds_left"] is not None else ""
        lines.append(f"  now: {job['plugin'] or job['stage']} {job['fraction']:.0%}{left} {printable(job['progress'])}")
    if note(job) and not job["running"]:
        lines.append(f"  {note(job)}")
    lines.append(f"  taken: {job['taken']} as {printable(job['file'])}")
    for step in job["steps"]:
        name = f"{step['stage']} {step['plugin'] or ''}".strip()
        if step["done"]:
            lines.append(f"  {name}: done in {step['seconds'] or 0:.1f} s")
        else:
            lines.append(f"  {name}: to do{', failed ' + str(step['failures']) + ' times' if step['failures'] else ''}")
    lines += [f"  {path}" for path in job["outputs"]]
    return lines


@app.command()
def cancel(job: JobArgument, config: ConfigOption = None) -> None:
    """Cancel a job; a stage that runs is told to stop, and ended after 10 seconds."""
    answer = ask(load_config(config), "cancel", job=job)
    _say(answer, "is cancelled" if answer["job"]["finished"] else "is being cancelled")


@app.command()
def retry(job: JobArgument, config: ConfigOption = None) -> None:
    """Try a failed or cancelled job again, from the last stage that was finished."""
    _say(ask(load_config(config), "retry", job=job), "is queued again")


def _say(answer: dict[str, Any], what: str) -> None:
    print(f"{answer['job']['name']} ({answer['job']['id']}) {what}")


@app.command()
def pause(config: ConfigOption = None) -> None:
    """Start no new stages until `atenea resume`; what runs is finished."""
    ask(load_config(config), "pause")
    print("the queue is paused")


@app.command()
def resume(config: ConfigOption = None) -> None:
    """Start stages again after `atenea pause`."""
    ask(load_config(config), "resume")
    print("the queue goes on")
