"""What a job leaves in the outbox beside its video: the report (NAME.json) or the answer to a failure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import atenea
from atenea import durable
from atenea.naming import printable
from atenea.rows import JobRow, StepRow

_STAGES = ("tts", "audio", "render", "post")


def iso_time(moment: float | None) -> str | None:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def build_report(job: JobRow, steps: Sequence[StepRow], video: Path) -> dict[str, Any]:
    """The report of a finished job: what it was made from, by what, and how long each stage took."""
    intake = (steps[0].result or {}) if steps else {}
    return {
        "id": job.id,
        "name": job.name,
        "atenea": atenea.__version__,
        "generated_by_ai": True,
        "preset": job.preset,
        "priority": job.priority,
        "taken": iso_time(job.created),
        "started": iso_time(job.started),
        "inputs": intake.get("inputs", {}),
        "stages": [_stage_report(step) for step in steps if step.stage in _STAGES],
        "video": {"sha256": durable.sha256_file(video), "bytes": video.stat().st_size},
    }


def stages_before(steps: Sequence[StepRow], step: StepRow) -> list[dict[str, Any]]:
    """What made the video that a post plugin gets: stage, plugin, version and options, as they stand in the report."""
    return [_made_by(earlier) for earlier in steps[: step.position] if earlier.stage in _STAGES]


def _made_by(step: StepRow) -> dict[str, Any]:
    result: Mapping[str, Any] = step.result or {}
    return {
        "stage": step.stage,
        "plugin": step.plugin,
        "version": result.get("plugin_version"),
        "options": result.get("options", dict(step.options)),
    }


def _stage_report(step: StepRow) -> dict[str, Any]:
    result: Mapping[str, Any] = step.result or {}
    return {
        **_made_by(step),
        "seconds": None if step.seconds is None else round(step.seconds, 3),
        "failures": step.failures,
        **({"report": result["report"]} if result.get("report") else {}),
    }


def build_error(job: JobRow, steps: Sequence[StepRow]) -> str:
    """The answer to a job that failed for good: one sentence to act on, the details, and how it is tried again."""
    lines = [job.error or "failed", ""]
    if job.details:
        lines += [job.details.rstrip(), ""]
    lines += [f"job: {job.id} ({job.name})", f"again: {_again(job, steps)}", ""]
    return "\n".join(lines)


def _again(job: JobRow, steps: Sequence[StepRow]) -> str:
    """What a person does to have the job tried again; a retry reads the file that was kept, not a mended one."""
    file = printable(job.relative)
    if steps and steps[0].result is None:
        return f"mend {file} and drop it anew; if what is wrong lies elsewhere, mend that, then: atenea retry {job.id}"
    return f"mend the cause, then: atenea retry {job.id}; or change {file} and drop it anew"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file for people and programs, durably."""
    durable.write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
