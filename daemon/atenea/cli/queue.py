"""The commands about the queue: jobs, show, cancel, retry, pause, resume."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atenea.cli.app import CommandWithArguments, ConfigOption, JsonOption, app, examples
from atenea.cli.details import detail_lines
from atenea.cli.listing import list_jobs
from atenea.cli.provenance import ProvenanceOption, TrustOption, show_provenance
from atenea.control import MOST, RECENT, ask
from atenea.errors import ExitCode, UsageError
from atenea.places import find_places

_JOB = typer.Argument(metavar="JOB", help="A job's id, or its name for the newest of that name.")
JobArgument = Annotated[str, _JOB]
OptionalJobArgument = Annotated[str | None, _JOB]


def _limit(number: int) -> int:
    """The number of jobs, if it is one; typer's own range would stand in the help as code does."""
    if not 0 <= number <= MOST:
        raise typer.BadParameter(f"{number} is not from 0 to {MOST:,}")
    return number


@app.command(epilog=examples("atenea jobs", "atenea jobs --watch", "atenea jobs --json | jq -r '.jobs[].name'"))
def jobs(
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing until Ctrl+C; in a pipe, what changes.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", callback=_limit, help="How many finished jobs to show.")] = RECENT,
    config: ConfigOption = None,
) -> None:
    """Show the queue, and what finished last. Unfinished jobs stand in the order in which they are served."""
    if watch:
        from atenea.cli.watch import watch as watch_queue  # noqa: PLC0415 - the others start faster without it

        watch_queue(find_places(config), limit, as_json=as_json)
    else:
        list_jobs(config, limit, as_json=as_json)


@app.command(
    cls=CommandWithArguments,
    epilog=examples(
        "atenea show hello", "atenea show hello --json | jq .error", "atenea show --provenance outbox/hello.mp4"
    ),
)
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
    details = ask(find_places(config), "show", job=job)
    if as_json:
        print(json.dumps(details))
    else:
        print("\n".join(detail_lines(details)))
    return ExitCode.DONE


@app.command(cls=CommandWithArguments)
def cancel(job: JobArgument, config: ConfigOption = None) -> None:
    """Cancel a job. A stage that runs is told to stop, and ended when it has not after `workers.cancel_seconds`."""
    answer = ask(find_places(config), "cancel", job=job)
    _say(answer, "is cancelled" if answer["job"]["finished"] else "is being cancelled")


@app.command(cls=CommandWithArguments)
def retry(job: JobArgument, config: ConfigOption = None) -> None:
    """Try a failed or cancelled job again, as it was dropped. It goes on after its last finished stage."""
    _say(ask(find_places(config), "retry", job=job), "is queued again")


def _say(answer: dict[str, Any], what: str) -> None:
    print(f"{answer['job']['name']} ({answer['job']['id']}) {what}")


@app.command()
def pause(config: ConfigOption = None) -> None:
    """Start no new stages until `atenea resume`. What runs is finished; jobs are still taken and checked."""
    ask(find_places(config), "pause")
    print("the queue is paused")


@app.command()
def resume(config: ConfigOption = None) -> None:
    """Start stages again after `atenea pause`."""
    ask(find_places(config), "resume")
    print("the queue goes on")
