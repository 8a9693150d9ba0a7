"""What it means to run a stage somewhere: a task goes in, progress and an outcome come out.

A task names files and holds JSON values, nothing else, so that it can cross to another process or machine. Running one
twice is harmless: a stage writes only into its own work folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Need = Literal["intake", "cpu", "network", "gpu", "publish"]
"""What a step occupies while it runs. `intake` and `publish` are the daemon's own; plugins ask for the other three."""

PLUGIN_NEEDS: frozenset[str] = frozenset({"cpu", "network", "gpu"})


@dataclass(frozen=True, kw_only=True)
class Task:
    """One step of one job.

    Attributes:
        kind: "catalogue" lists the plugins; "configuration" checks the options that they are given; "diagnosis" asks a
            plugin what it finds on this machine; "intake" reads a job file; "stage" calls a plugin's hook; "mux" adds
            the speech to the rendered video.
        needs: what it occupies while it runs.
        job_id: the job.
        folder: the job's folder, absolute.
        stage: the hook to call.
        plugin: the plugin to call it on.
        workdir: the step's own folder, relative to `folder`.
        options: the plugin's options as the job, its preset and the configuration give them.
        artifacts: what earlier steps made ("speech", "wav", "video", "timing"), relative to `folder`.
        arguments: what else a kind of task wants.
    """

    kind: Literal["catalogue", "configuration", "diagnosis", "intake", "stage", "mux"]
    needs: frozenset[str]
    job_id: str = ""
    folder: str = ""
    stage: str = ""
    plugin: str = ""
    workdir: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """The task did its work; `result` holds JSON values whose keys depend on its kind.

    The files that it names are on the disk, so that a ledger that says so is right after a power cut too.

    A stage's: `artifact` (path relative to the job's folder, or None), `attachments` (suffix to path), `report`,
    `options` (validated, defaults filled in), `timing` (path or None).
    """

    result: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The task did not do its work.

    Attributes:
        error: one sentence for a person; it names the plugin and the stage.
        details: a traceback or the last lines of output, for the file that answers a failed job; may be empty.
        transient: whether trying again may help.
        retry_after: the least number of seconds to wait before that.
        worker_died: the process that ran it ended before the task did.
        not_begun: no process could be started for it, which says nothing about the task.
    """

    error: str
    details: str = ""
    transient: bool = False
    retry_after: float | None = None
    worker_died: bool = False
    not_begun: bool = False


Outcome = Done | Failed
ProgressCallback = Callable[[float, str], None]


class Executor(Protocol):
    """Runs tasks. Cancelling `run` cancels the task: it gets a while to stop by itself, then it is ended."""

    @property
    def capacity(self) -> Mapping[str, int]:
        """How many tasks with each need can run at once."""

    async def run(self, task: Task, on_progress: ProgressCallback) -> Outcome:
        """Run the task to its end."""

    async def close(self) -> None:
        """End everything that runs, and wait until it is gone."""
