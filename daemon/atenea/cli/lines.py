"""Jobs in plain words, one line each; without what draws tables, so that pipes have them at once."""

from __future__ import annotations

from typing import Any

from atenea.durations import spoken_duration
from atenea.naming import printable


def job_line(job: dict[str, Any]) -> str:
    """A job as tab-separated columns, for pipes."""
    return "\t".join([job["id"], job["name"], job["state"], percent(job), left(job), note(job) or turn(job)])


def note(job: dict[str, Any]) -> str:
    """What else a person wants to know of a job, on one line."""
    if job["waiting_for"] and job["state"] == "queued":
        return printable("waits for " + ", ".join(job["waiting_for"]))
    if job["error"]:
        again = f"; next attempt at {job['next_attempt']}" if job["next_attempt"] else ""
        return printable(job["error"]) + again
    return printable(job["progress"])


def turn(job: dict[str, Any]) -> str:
    """When the job's render starts, if it waits for those before it."""
    return f"starts in about {spoken_duration(job['starts_in'])}" if job["starts_in"] else ""


def percent(job: dict[str, Any]) -> str:
    """How far the job's running step is."""
    return f"{job['fraction']:.0%}" if job["fraction"] is not None else ""


def pace(job: dict[str, Any]) -> str:
    """How fast the job's render is."""
    return f"{job['frames_per_second']:.1f}" if job["frames_per_second"] is not None else ""


def left(job: dict[str, Any]) -> str:
    """How long the job's running step will still take; with "~", how long the render that it waits for will."""
    if job["seconds_left"] is not None:
        return spoken_duration(job["seconds_left"])
    if job["render_seconds"] is not None and not job["running"]:
        return f"~{spoken_duration(job['render_seconds'])}"
    return ""
