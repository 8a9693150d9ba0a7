"""Carries out the next step of a job and enters in the ledger what came of it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from rich.filesize import decimal

from atenea import durable
from atenea.arrivals import Arrivals
from atenea.config import Config
from atenea.errors import AteneaError
from atenea.executor import Done, Executor, Failed, Outcome, ProgressCallback, Task
from atenea.ledger import Ledger
from atenea.ledger_file import passes
from atenea.naming import printable, shortened
from atenea.publisher import Publisher
from atenea.report import build_error, build_report, stages_before, write_json
from atenea.retention import drop_folder, drop_work, relieve_disk
from atenea.rows import JobRow, Step, StepRow, split_needs
from atenea.scheduler import may_try_again, retry_delay
from atenea.threads import in_thread

log = structlog.get_logger()

_PAUSE_SECONDS = 1.0
"""Between two attempts to enter what came of a step."""

_ARTIFACT = {"tts": "speech", "audio": "wav", "render": "video", "mux": "video", "post": "video"}


class NotBegunError(AteneaError):
    """A step did not begin, because no process could be started for it: no fault of the job's, and no attempt."""


class StepRunner:
    """Runs steps with an executor; several at once, but one per job."""

    def __init__(self, config: Config, ledger: Ledger, executor: Executor, arrivals: Arrivals) -> None:
        self.config = config
        self._ledger = ledger
        self._executor = executor
        self._arrivals = arrivals
        self._publisher = Publisher(config.paths.outbox, ledger)
        self._publishing = asyncio.Lock()

    async def run(self, job: JobRow, step: StepRow, on_progress: ProgressCallback) -> dict[str, Path]:
        """Run one step to its end; the files that it brought into the outbox.

        A job that fails is no exception: the ledger knows. Cancelling this ends the step.

        Raises:
            NotBegunError: no process could be started for it.
        """
        if step.stage == "publish":
            return await self._publish(job, step)
        if step.stage == "intake":
            await self._read(job, step, on_progress)
        elif step.position > 1 or not await self._arrivals.go_on(job, is_read=True):
            await self._serve(job, step, on_progress)
        return {}

    async def relieve_disk(self, job: JobRow, step: StepRow) -> None:
        """Remove what a step that was cancelled has left if that keeps everybody from going on; else a retry has it."""
        await in_thread(self._relieve_disk, job, step, Failed("it was cancelled"))

    # Intake

    async def _read(self, job: JobRow, step: StepRow, on_progress: ProgressCallback) -> None:
        if await self._arrivals.go_on(job, is_read=False):
            return
        attempt = self._ledger.begin(job, step)
        if job.refusal:
            await self._enter(lambda: self._failed(attempt, job, step, Failed(job.refusal or "")), on_progress)
            return
        arguments = {"relative": job.relative, "preset": job.preset, "previous": dict(job.waiting)}
        outcome = await self._begun(self._task(job, step, arguments=arguments), on_progress)
        has_more = isinstance(outcome, Failed) and await self._arrivals.has_more(job)
        await self._enter(lambda: self._is_read(attempt, job, step, outcome, has_more), on_progress)

    def _is_read(self, attempt: int, job: JobRow, step: StepRow, outcome: Done | Failed, has_more: bool) -> None:
        if isinstance(outcome, Failed):
            self._refuse(attempt, job, step, outcome, has_more)
        elif "waiting" in outcome.result:
            self._wait(attempt, job, outcome.result["waiting"])
        else:
            self._plan(attempt, job, outcome)

    def _refuse(self, attempt: int, job: JobRow, step: StepRow, outcome: Failed, has_more: bool) -> None:
        """Fail the job, unless what is wrong with it may be that there is more to come."""
        if has_more:
            self._ledger.put_off(attempt, job, until=time.time() + self._arrivals.pause, waiting=job.waiting)
        else:
            self._failed(attempt, job, step, outcome)

    def _plan(self, attempt: int, job: JobRow, outcome: Done) -> None:
        plan = outcome.result
        steps = [Step(**{**step, "needs": split_needs(step["needs"])}) for step in plan["steps"]]
        result = {"inputs": plan["inputs"]}
        self._drop_stale_work(job, steps, result)
        self._ledger.plan(attempt, job, steps=steps, result=result, priority=plan["priority"])
        log.info("job accepted", job=job.id, name=job.name, stages=[s.plugin or s.stage for s in steps])

    def _drop_stale_work(self, job: JobRow, steps: Sequence[Step], result: Mapping[str, Any]) -> None:
        """Remove what another plan has left in the work folders: a stage would go on from it as if it were its own."""
        keep = {step.workdir for step in self._ledger.common_steps(job, steps, result)}
        work = self._folder(job) / "work"
        for step in self._ledger.steps(job.id):
            if step.workdir not in keep:
                drop_folder(self._folder(job) / step.workdir)
        if work.exists():
            durable.fsync_folder(work)

    def _wait(self, attempt: int, job: JobRow, waiting: Mapping[str, Any]) -> None:
        limit = self.config.limits.wait_for_files_seconds
        # Not at the first look, after a retry too: until the second, even a file that is there has not settled.
        if job.waiting and time.time() - job.created > limit:
            names = " and ".join(shortened(printable(name)) for name in waiting)
            error = (
                f"{printable(job.relative)}: {names} did not arrive within {limit:g} seconds;"
                " put it beside the job file or into the assets folder, then: atenea retry"
            )
            self._ledger.give_up(attempt, job, error=error, details="", died=False)
            return
        arriving = any(waiting.values())
        pause = self.config.watch.settle_seconds if arriving else self.config.watch.rescan_seconds
        self._ledger.put_off(attempt, job, until=time.time() + pause, waiting=waiting)
        if not job.waiting:
            log.info("job waits for files", job=job.id, name=job.name, files=list(waiting))

    # Stages

    async def _serve(self, job: JobRow, step: StepRow, on_progress: ProgressCallback) -> None:
        attempt = self._ledger.begin(job, step)
        log.info("stage started", job=job.id, name=job.name, stage=step.stage, plugin=step.plugin)
        arguments = {"stages": stages_before(self._ledger.steps(job.id), step)} if step.stage == "post" else None
        outcome = await self._begun(self._task(job, step, arguments=arguments), on_progress)
        outcome = await in_thread(self._relieve_disk, job, step, outcome)
        await self._enter(lambda: self._is_served(attempt, job, step, outcome), on_progress)

    def _is_served(self, attempt: int, job: JobRow, step: StepRow, outcome: Done | Failed) -> None:
        if isinstance(outcome, Failed):
            self._failed(attempt, job, step, outcome)
        else:
            self._ledger.complete(attempt, job, step, outcome.result)

    async def _begun(self, task: Task, on_progress: ProgressCallback) -> Outcome:
        outcome = await self._executor.run(task, on_progress)
        if isinstance(outcome, Failed) and outcome.not_begun:
            raise NotBegunError(outcome.error)
        return outcome

    def _relieve_disk(self, job: JobRow, step: StepRow, outcome: Outcome) -> Outcome:
        """Remove the step's work folder if it keeps everybody from going on; a step that filled the disk failed."""
        error = f"{outcome.error}\n{outcome.details}" if isinstance(outcome, Failed) else None
        folder = self._folder(job) / step.workdir
        try:
            size = relieve_disk(folder, self.config.limits.work_gigabytes * 1e9, error)
        except OSError as fault:  # what the step has done is not to be done again for that
            log.warning("a work folder cannot be looked at", folder=str(folder), error=str(fault))
            return outcome
        if not size:
            return outcome
        if not isinstance(outcome, Failed):
            what = f"{step.stage} plugin {step.plugin!r}" if step.plugin else "the step that adds the speech"
            outcome = Failed(f"{what} filled the disk", transient=True)
        return replace(outcome, error=f"{outcome.error} (its work folder, {decimal(size)}, was removed)")

    async def _enter(self, change: Callable[[], None], on_progress: ProgressCallback) -> None:
        """Enter what came of a step, as soon as the ledger can be written: what is done is not to be done again."""
        told = False
        while True:
            try:
                return change()
            except sqlite3.OperationalError as error:
                if not passes(error):
                    raise
                if not told:
                    log.error("what a step has done cannot be noted now; it is tried again", error=str(error))
                    told = True
                on_progress(1.0, str(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _task(self, job: JobRow, step: StepRow, *, arguments: Mapping[str, Any] | None = None) -> Task:
        return Task(
            kind=step.stage if step.stage in {"intake", "mux"} else "stage",  # type: ignore[arg-type]
            needs=step.needs,
            job_id=job.id,
            folder=str(self._folder(job)),
            stage=step.stage,
            plugin=step.plugin,
            workdir=step.workdir,
            options=step.options,
            artifacts=_artifacts(self._ledger.steps(job.id)[: step.position]),
            arguments=arguments or {},
        )

    def _failed(self, attempt: int, job: JobRow, step: StepRow, outcome: Failed) -> None:
        retry = self.config.retry
        deaths = job.deaths + outcome.worker_died
        failures = step.failures + 1
        facts = {"job": job.id, "name": job.name, "stage": step.stage, "plugin": step.plugin, "error": outcome.error}
        if outcome.transient and may_try_again(failures, deaths, retry):
            delay = retry_delay(step.failures, retry, outcome.retry_after)
            until = time.time() + delay
            self._ledger.try_again(attempt, job, step, error=outcome.error, until=until, died=outcome.worker_died)
            log.warning("stage failed; it will be tried again", **facts, seconds=round(delay, 1))
            return
        error = outcome.error
        if outcome.transient:
            error += f" (given up after {failures} attempts)"
        self._ledger.give_up(attempt, job, error=error, details=outcome.details, died=outcome.worker_died)
        log.error("job failed", **facts)

    # Publishing

    async def _publish(self, job: JobRow, step: StepRow) -> dict[str, Path]:
        async with self._publishing:
            return await in_thread(self._publish_now, job, step)

    def _publish_now(self, job: JobRow, step: StepRow) -> dict[str, Path]:
        attempt = self._ledger.begin(job, step)
        self._drop_scraps(job)
        state = "failed" if job.error else "done"
        files = self._failure_files(job) if job.error else self._result_files(job)
        self._publisher.withdraw(job)
        published = self._publisher.publish(job, files)
        self._ledger.finish(attempt, job, state)
        if state == "done":
            drop_work(self._folder(job))
        log.info(
            "job finished", job=job.id, name=job.name, state=state, files=[path.name for path in published.values()]
        )
        return published

    def _failure_files(self, job: JobRow) -> dict[str, Path]:
        answer = self._publish_folder(job) / "error.txt"
        if job.publishing is None:
            durable.write_atomic(answer, build_error(job, self._ledger.steps(job.id)).encode())
        return {".error.txt": answer}

    def _result_files(self, job: JobRow) -> dict[str, Path]:
        steps = self._ledger.steps(job.id)
        folder = self._folder(job)
        video = folder / _artifacts(steps)["video"]
        report = self._publish_folder(job) / "report.json"
        # An earlier attempt may have shown the report already: then its hash must stay what the ledger recorded.
        if job.publishing is None:
            write_json(report, build_report(job, steps, video))
        attachments = {
            suffix: folder / path
            for step in steps
            for suffix, path in (step.result or {}).get("attachments", {}).items()
        }
        return {**attachments, ".json": report, ".mp4": video}

    def _publish_folder(self, job: JobRow) -> Path:
        folder = self._folder(job) / "publish"
        durable.make_folders(folder)
        durable.fsync_folder(folder.parent)  # one that a crash has left may not be on the disk yet
        return folder

    def _drop_scraps(self, job: JobRow) -> None:
        """Remove what steps that a crash cut off have left half written."""
        folder = self._folder(job)
        for path in (*folder.glob(".*"), *folder.glob("publish/.*")):
            if not path.is_dir():
                durable.remove_file(path)

    def _folder(self, job: JobRow) -> Path:
        return self.config.jobs / job.id


def _artifacts(steps: list[StepRow]) -> dict[str, str]:
    """What the steps made, by name: the last one that made a thing counts."""
    made = {}
    for step in steps:
        result = step.result or {}
        if result.get("artifact"):
            made[_ARTIFACT[step.stage]] = result["artifact"]
        if result.get("timing"):
            made["timing"] = result["timing"]
    return made
