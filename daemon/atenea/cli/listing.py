"""`atenea jobs`: the list of the queue, on a terminal as a table, in a pipe as plain lines or JSON."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentError, ArgumentParser
from pathlib import Path

from atenea.cli.lines import job_line
from atenea.control import MOST, RECENT, ask
from atenea.places import find_places


def list_at_once(arguments: list[str]) -> bool:
    """List the queue if this is what a command line plainly says; typer deals with all others, and with mistakes."""
    if arguments[:1] != ["jobs"]:
        return False
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--limit", type=int, default=RECENT)
    parser.add_argument("--config", type=Path)
    try:
        given, others = parser.parse_known_args(arguments[1:])
    except ArgumentError:
        return False
    if others or not 0 <= given.limit <= MOST:
        return False
    list_jobs(given.config, given.limit, as_json=given.as_json)
    return True


def list_jobs(config: Path | None, limit: int, *, as_json: bool) -> None:
    """Print the unfinished jobs, and so many of those that finished last."""
    answer = ask(find_places(config), "jobs", limit=limit)
    if as_json:
        print(json.dumps(answer))
    elif sys.stdout.isatty():
        from atenea.cli.display import print_jobs  # noqa: PLC0415 - a pipe does without tables

        print_jobs(answer)
    else:
        for job in answer["jobs"]:
            print(job_line(job))
