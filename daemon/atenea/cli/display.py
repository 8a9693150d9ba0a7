"""How jobs look on a terminal, and as plain lines in a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from atenea import progress as steps
from atenea.cli.lines import left, note, percent, turn
from atenea.durations import spoken_duration
from atenea.naming import printable

STATE_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow", "queued": "dim"}
_LINE_EVERY = 0.1


class StepDisplay:
    """Shows how far the steps of one job are on standard error: bars on a terminal, plain lines in a pipe."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> StepDisplay:
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description:>10}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bars = Progress(*columns, console=self._console)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def complete(self) -> None:
        """The steps shown so far are done: their last word may have come a little before."""
        if self._bars:
            for task in self._tasks.values():
                self._bars.update(task, completed=1.0, text="")

    def update(self, progress: steps.Progress) -> None:
        """Show the progress of a step."""
        step = progress.plugin or progress.stage
        self.show(step, progress.fraction, progress.text, progress.seconds_left, progress.frames_per_second)

    def show(
        self,
        step: str,
        fraction: float,
        text: str,
        seconds_left: float | None,
        frames_per_second: float | None = None,
    ) -> None:
        """Show that a step is so far."""
        frames = f"{frames_per_second:.1f} frames/s" if frames_per_second is not None else ""
        rest = f"{spoken_duration(seconds_left)} left" if seconds_left is not None and fraction < 1 else ""
        words = ", ".join(part for part in (printable(text), frames, rest) if part)
        if self._bars:
            if step not in self._tasks:
                self.complete()
                self._tasks[step] = self._bars.add_task(step, total=1.0, text="")
            self._bars.update(self._tasks[step], completed=fraction, text=words)
        elif fraction >= self._said.get(step, -1) + _LINE_EVERY:
            self._said[step] = fraction
            print(f"{step}: {fraction:.0%}{', ' if words else ''}{words}", file=sys.stderr, flush=True)


def job_table(answer: dict[str, Any]) -> RenderableType:
    """The queue as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("JOB", "NAME", "STATE", "DONE", "LEFT", "NOTE"):
        justify: JustifyMethod = "right" if heading in {"DONE", "LEFT"} else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading not in {"NAME", "NOTE"})
    for job in answer["jobs"]:
        table.add_row(job["id"], Text(job["name"]), state(job), percent(job), left(job), Text(note(job) or turn(job)))
    return Group(headline(answer), table) if answer["jobs"] else headline(answer)


def print_jobs(answer: dict[str, Any]) -> None:
    """Print the queue as a table."""
    Console().print(job_table(answer))


def state(job: dict[str, Any]) -> Text:
    """The job's state, coloured."""
    return Text(job["state"], style=STATE_STYLES.get(job["state"], "cyan"))


def headline(answer: dict[str, Any]) -> Text:
    """What stands above the queue."""
    parts = ["the daemon is running" if answer["daemon"] else "no daemon is running"]
    if answer["paused"]:
        parts.append("the queue is paused (atenea resume)")
    if answer["more"]:
        parts.append(f"{answer['more']:,} more jobs are queued")
    if not answer["jobs"]:
        parts.append("no jobs yet")
    return Text("; ".join(parts), style="dim")
