"""One job in plain text, as `atenea show` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from atenea.cli.lines import left, note, pace, turn
from atenea.durations import spoken_duration
from atenea.naming import printable

_BAR = 32
"""Characters for the step that took longest."""

_LEAST_SECONDS = 1.0
"""What the longest bar stands for, at least: where nothing took long, no step looks as if it had."""

_LOG_LINES = 20
_FIELDS_LEFT_OUT = frozenset({"timestamp", "level", "event", "job", "name", "pid"})


def detail_lines(job: dict[str, Any]) -> Iterator[str]:
    """All that a person wants to know of a job."""
    yield f"{job['name']} ({job['id']}): {job['state']}"
    yield from (f"  {line}" for line in _now(job))
    yield f"  taken: {job['taken']} as {printable(job['file'])}"
    yield from _chart(job["steps"])
    yield from _failures(job["attempts"])
    yield from _files(job["files"])
    yield from _log(job)


def _now(job: dict[str, Any]) -> Iterator[str]:
    if job["running"]:
        words = (
            f"{job['fraction']:.0%}",
            f"{pace(job)} frames/s" if pace(job) else "",
            f"{left(job)} left" if left(job) else "",
            printable(job["progress"]),
        )
        yield f"now: {job['plugin'] or job['stage']} {', '.join(filter(None, words))}"
        return
    if said := note(job) or turn(job):
        yield said
    if job["render_seconds"] is not None:
        yield f"the render will take about {spoken_duration(job['render_seconds'])}"


def _chart(steps: list[dict[str, Any]]) -> Iterator[str]:
    """For each step how long it waited (dots) and ran, all attempts together."""
    names = [f"{step['stage']} {step['plugin'] or ''}".strip() for step in steps]
    width = max(map(len, names))
    longest = max(_LEAST_SECONDS, *((step["waited"] or 0) + (step["ran"] or 0) for step in steps))
    yield f"  {'':{width}}  {'waited':>12}  {'ran':>12}"
    for name, step in zip(names, steps, strict=True):
        if step["waited"] is None:
            yield f"  {name:{width}}  {'to do':>12}"
            continue
        ran = _seconds(step["ran"]) if step["ran"] or step["done"] else "to do"
        bar = "." * _length(step["waited"], longest) + "#" * _length(step["ran"], longest)
        yield f"  {name:{width}}  {_seconds(step['waited']):>12}  {ran:>12}  {bar}".rstrip()


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else spoken_duration(seconds)


def _length(seconds: float, longest: float) -> int:
    return round(_BAR * seconds / longest)


def _failures(attempts: list[dict[str, Any]]) -> Iterator[str]:
    failed = [attempt for attempt in attempts if attempt["outcome"] not in {"running", "done"}]
    if failed:
        yield "  attempts that came to nothing:"
    for attempt in failed:
        stage = f"{attempt['stage']} {attempt['plugin'] or ''}".strip()
        error = f": {printable(attempt['error'])}" if attempt["error"] else ""
        yield f"    {_moment(attempt['started'])} {stage}: {attempt['outcome']}{error}"


def _files(files: list[dict[str, Any]]) -> Iterator[str]:
    if files:
        yield "  files:"
    for file in files:
        size = "gone" if file["bytes"] is None else f"{file['bytes']:,} bytes"
        yield f"    {file['what']:8}  {size:>18}  {printable(file['path'])}"


def _log(job: dict[str, Any]) -> Iterator[str]:
    lines = job["log"]
    if lines:
        yield "  log:"
    if (earlier := len(lines) - _LOG_LINES) > 0:
        yield f"    ... {earlier} earlier: atenea show {job['id']} --json"
    for line in lines[-_LOG_LINES:]:
        fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in _FIELDS_LEFT_OUT and value)
        words = (_moment(line.get("timestamp")), line.get("level"), line.get("event"), fields)
        yield f"    {printable(' '.join(str(word) for word in words if word))}"


def _moment(time: Any) -> str:
    """An ISO time to the second."""
    return f"{str(time or '')[:19]}Z"
