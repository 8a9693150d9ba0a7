"""`atenea jobs --watch`: the queue as it goes on, until interrupted; daemons may come and go meanwhile.

On a terminal a table that keeps itself up to date; in a pipe what changes: the line of a job, or with --json all.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from atenea.cli.display import headline, state
from atenea.cli.gpus import Gpu, Gpus
from atenea.cli.lines import job_line, left, note, pace, percent, turn
from atenea.control import look
from atenea.errors import AteneaError
from atenea.naming import printable
from atenea.places import HasPlaces

_EVERY_SECONDS = 0.4
_MOST_BUSY = 0.3
"""The share of time that the daemon may spend on answering, however many jobs it lists."""

_WIDE = 100
"""Columns of a terminal that has room for what the plugins say, beside the bars."""

_RESTLESS = ("seconds_left", "frames_per_second", "starts_in")
"""What always changes while a step runs, and is not printed for itself."""

_FEWEST = 3
"""Rows that each of the two tables keeps, however low the terminal is."""


class Queue:
    """The queue at each moment.

    Attributes:
        trouble: why it is not known at present, in one sentence.
    """

    def __init__(self, config: HasPlaces, limit: int) -> None:
        self._config = config
        self._limit = limit
        self._answer: dict[str, Any] | None = None
        self.trouble: str | None = None

    def looks(self) -> Iterator[dict[str, Any]]:
        """What `atenea jobs` is told, again and again; as it was, while it cannot be found out.

        Raises:
            AteneaError: it cannot be found out the first time.
        """
        while True:
            began = time.monotonic()
            try:
                self._answer = look(self._config, "jobs", limit=self._limit)
                self.trouble = None
            except AteneaError as error:
                if self._answer is None:
                    raise
                self.trouble = printable(str(error))
            took = time.monotonic() - began
            yield self._answer
            time.sleep(max(_EVERY_SECONDS, took / _MOST_BUSY))


def watch(config: HasPlaces, limit: int, *, as_json: bool) -> None:
    """Show the queue until Ctrl+C.

    Raises:
        AteneaError: there is nothing to watch.
    """
    queue = Queue(config, limit)
    console = Console()
    try:
        if as_json:
            _print_objects(queue)
        elif console.is_terminal and not console.is_dumb_terminal:
            _draw(queue, console)
        else:
            _print_lines(queue)
    except KeyboardInterrupt:
        pass


def _print_objects(queue: Queue) -> None:
    shown: dict[str, Any] = {}
    for answer in queue.looks():
        jobs = [{key: value for key, value in job.items() if key not in _RESTLESS} for job in answer["jobs"]]
        steady = {**answer, "jobs": jobs}
        if steady != shown:
            print(json.dumps(answer), flush=True)
            shown = steady


def _print_lines(queue: Queue) -> None:
    shown: dict[str, tuple[str, str, str]] = {}
    said = ""
    for answer in queue.looks():
        saying = queue.trouble or headline({**answer, "more": 0}).plain
        if saying != said:
            print(saying, file=sys.stderr, flush=True)
            said = saying
        # Not what the plugins say: they say something else every time.
        steady = {
            job["id"]: (job["state"], percent(job), "" if job["running"] else note(job)) for job in answer["jobs"]
        }
        for job in answer["jobs"]:
            if steady[job["id"]] != shown.get(job["id"]):
                print(job_line(job), flush=True)
        shown = steady


def _draw(queue: Queue, console: Console) -> None:
    with Gpus() as gpus, Live(console=console, auto_refresh=False, screen=True) as live:
        for answer in queue.looks():
            live.update(screen(answer, queue.trouble, gpus.look(), console.width, console.height), refresh=True)


def screen(answer: dict[str, Any], trouble: str | None, gpus: list[Gpu], width: int, height: int) -> RenderableType:
    """All that a terminal of this size shows: running jobs with bars, then the others, as many as there is room for."""
    running = [job for job in answer["jobs"] if job["running"]]
    others = [job for job in answer["jobs"] if not job["running"]]
    # Beside rows: a headline, each table's own and a blank above it, the line for those that are hidden.
    room = height - 6 - (len(gpus) + 1 if gpus else 0)
    running_shown = running[: max(_FEWEST, room - min(len(others), _FEWEST))]
    others_shown = others[: max(_FEWEST, room - len(running_shown))]
    parts: list[RenderableType] = [Text(trouble, style="red", no_wrap=True) if trouble else headline(answer)]
    if running_shown:
        parts += [Text(""), _running_table(running_shown, width)]
    if others_shown:
        parts += [Text(""), _others_table(others_shown)]
    if hidden := len(answer["jobs"]) - len(running_shown) - len(others_shown):
        parts.append(Text(f"... and {hidden:,} more", style="dim"))
    if gpus:
        parts += [Text(""), _gpu_table(gpus)]
    return Group(*parts)


def _running_table(jobs: list[dict[str, Any]], width: int) -> Table:
    table = _table(("JOB", "NAME", "STAGE", "", "DONE", "FRAMES/S", "LEFT", *(("NOTE",) if width >= _WIDE else ())))
    table.columns[3].width = 20 if width >= _WIDE else 10
    for job in jobs:
        stage = Text(" ".join(filter(None, (job["stage"], job["plugin"]))), style="cyan")
        bar = ProgressBar(total=1.0, completed=job["fraction"])
        row = [job["id"], Text(job["name"]), stage, bar, percent(job), pace(job), left(job)]
        table.add_row(*row, *([Text(note(job))] if width >= _WIDE else []))
    return table


def _others_table(jobs: list[dict[str, Any]]) -> Table:
    table = _table(("JOB", "NAME", "STATE", "LEFT", "NOTE"))
    for job in jobs:
        table.add_row(job["id"], Text(job["name"]), state(job), left(job), Text(note(job) or turn(job)))
    return table


def _table(headings: Sequence[str]) -> Table:
    """A table as wide as the terminal, each of whose rows takes one line: long names and notes are cut off."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in {"DONE", "FRAMES/S", "LEFT"} else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio={"NAME": 2, "NOTE": 3}.get(heading),
            min_width={"STAGE": 15, "LEFT": 11}.get(heading),
            max_width={"STAGE": 15}.get(heading),
        )
    return table


def _gpu_table(gpus: list[Gpu]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for gpu in gpus:
        name = Text(f"GPU {gpu.index} {printable(gpu.name)}", no_wrap=True, overflow="ellipsis")
        cells: list[RenderableType] = ["", "", "", ""]
        if gpu.load is not None:
            cells[:2] = [ProgressBar(total=1.0, completed=gpu.load, width=10), f"{gpu.load:.0%}"]
        if gpu.used is not None and gpu.total:
            memory = f"{gpu.used:.1f} of {gpu.total:.1f} GiB"
            cells[2:] = [ProgressBar(total=gpu.total, completed=gpu.used, width=10), memory]
        table.add_row(name, *cells)
    return table
