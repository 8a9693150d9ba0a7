"""A job as a file in its own folder: what intake writes and every later stage reads.

The job's files stand in it as paths relative to the folder, so that the folder can move.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from atenea.durable import write_atomic
from atenea.errors import PermanentError
from atenea.job import Job

JOB_FILE = "job.json"

_PATHS = ("audio_file", "avatar")


def write_job_file(folder: Path, job: Job) -> None:
    """Write the job into its folder: durably, and at once as a whole.

    Raises:
        PermanentError: the job names a file outside the folder.
    """
    moved = _with_paths(job, lambda path: _relative(path, folder))
    write_atomic(folder / JOB_FILE, moved.model_dump_json(indent=2).encode())


def read_job_file(folder: Path) -> Job:
    """The job that `write_job_file` wrote, with absolute paths.

    Raises:
        PermanentError: there is none, or it is damaged.
    """
    file = folder / JOB_FILE
    try:
        job = Job.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise PermanentError(f"{file} is missing; submit the job again") from None
    except (ValidationError, ValueError) as error:
        raise PermanentError(f"{file} is damaged; submit the job again") from error
    return _with_paths(job, lambda path: folder.absolute() / _inside(path, folder))


def _with_paths(job: Job, change: Callable[[Path], Path]) -> Job:
    paths = {name: getattr(job, name) for name in _PATHS}
    return job.model_copy(update={name: change(path) for name, path in paths.items() if path is not None})


def _relative(path: Path, folder: Path) -> Path:
    if not path.is_relative_to(folder):
        raise PermanentError(f"{path} lies outside the job's folder {folder}")
    return _inside(path.relative_to(folder), folder)


def _inside(path: Path, folder: Path) -> Path:
    if path.is_absolute() or ".." in path.parts:
        raise PermanentError(f"{path} lies outside the job's folder {folder}")
    return path
