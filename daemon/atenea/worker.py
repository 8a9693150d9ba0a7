"""The worker: a process that runs tasks with plugins for the daemon, one at a time. `python -m atenea.worker FD`.

FD is its end of a Unix socket. It first reads a line with the configuration, the plugins that it must not import and
the secrets that it may know, then tasks; it answers with events (`worker_link`), the last of which is "done", "failed"
or "cancelled". Tasks run in the main thread, where CPython libraries expect to be. What plugins print goes to a pipe
that the daemon reads.

The daemon alone decides when a worker ends: signals for a graceful end are ignored.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import structlog

from atenea import durable
from atenea.access import WRITE, let_in, may, refusal
from atenea.config import Config
from atenea.context import Context
from atenea.credentials import hide_from_others
from atenea.errors import Cancelled, MistakesError, PermanentError
from atenea.executor import ProgressCallback, Task
from atenea.failures import failure_event
from atenea.job_store import read_job_file
from atenea.plugin_manager import HookError, PluginManager, blaming
from atenea.timing import read_timing
from atenea.worker_link import Link, Progress, leave_guardian, send_logs

_REPORT_BYTES = 256 * 1024
_OOM_SCORE = "500"
"""Of 1000, which is: always first."""
_STAGE_ARGUMENT = {"audio": "speech", "render": "wav", "post": "video"}


class Worker:
    """Runs tasks: one method for each kind, which returns the result."""

    def __init__(self, link: Link, config: Config, plugins: PluginManager) -> None:
        self._link = link
        self._config = config
        self._plugins = plugins
        self._kinds: Mapping[str, Callable[[Task, Progress], Mapping[str, Any]]] = {
            "catalogue": self.catalogue,
            "configuration": self.configuration,
            "diagnosis": self.diagnosis,
            "intake": self.intake,
            "stage": self.stage,
            "mux": self.mux,
        }

    def run(self, task: Task) -> None:
        """Run the task and send how it ended."""
        progress = Progress(self._link)
        os.chdir("/")  # whatever the last task did
        try:
            result = self._kinds[task.kind](task, progress)
            self._end(progress, {"event": "done", "result": result})
        except Cancelled:
            self._end(progress, {"event": "cancelled"})
        except BaseException as error:  # noqa: BLE001 - whatever a plugin raises, the worker goes on
            self._end(progress, failure_event(error, task))

    def _end(self, progress: Progress, event: Mapping[str, Any]) -> None:
        _flush_output()
        progress.flush()
        self._link.send(event)

    def catalogue(self, _task: Task, _progress: Progress) -> Mapping[str, Any]:
        """All plugins; each is announced before its import, so that the daemon knows which one hung or killed us."""
        infos = self._plugins.load_all(lambda name: self._link.send({"event": "loading", "plugin": name}))
        return {"plugins": [asdict(info) for info in infos]}

    def configuration(self, _task: Task, _progress: Progress) -> Mapping[str, Any]:
        """Check what the configuration gives to plugins."""
        from atenea.configured import check_configuration  # noqa: PLC0415 - only needed once

        return check_configuration(self._config, self._plugins)

    def diagnosis(self, task: Task, _progress: Progress) -> Mapping[str, Any]:
        """What a plugin finds on this machine; nothing if its options are wrong, which `configuration` tells."""
        try:
            found = self._plugins.diagnose(task.plugin, task.options)
        except MistakesError:
            return {"findings": []}
        return {"findings": [asdict(finding) for finding in found]}

    def intake(self, task: Task, _progress: Progress) -> Mapping[str, Any]:
        """Read a job file."""
        from atenea.intake import read_job  # noqa: PLC0415 - only intake workers pay for it

        return read_job(task, self._config, self._plugins)

    def stage(self, task: Task, progress: Progress) -> Mapping[str, Any]:
        """Call a plugin's hook and check what it gives back."""
        return call_stage(task, self._config, self._plugins, progress)

    def mux(self, task: Task, progress: Progress) -> Mapping[str, Any]:
        """Add the speech to the rendered video."""
        from atenea.media.audio import keeps_time, wav_info  # noqa: PLC0415 - heavy, and only needed here
        from atenea.media.mux import ARTIFICIAL, add_speech  # noqa: PLC0415 - heavy, and only needed here

        folder = Path(task.folder)
        workdir = folder / task.workdir
        workdir.mkdir(parents=True, exist_ok=True)
        wav = folder / task.artifacts["wav"]
        job = read_job_file(folder)
        speech = folder / task.artifacts["speech"] if "speech" in task.artifacts else job.audio_file or wav
        samples = wav_info(wav)
        target = workdir / "video.mp4"
        add_speech(
            video=folder / task.artifacts["video"],
            speech=speech if keeps_time(speech, samples) else wav,
            wav_samples=samples,
            target=target,
            metadata={"title": job.name, "comment": ARTIFICIAL},
            progress=lambda fraction: progress(fraction, ""),
        )
        durable.sync_below(folder, [target])
        return {"artifact": _relative(target, folder)}


def main(descriptor: int) -> None:
    """Serve the daemon at the other end of the socket until it ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that a plugin starts would inherit
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)
    leave_guardian(connection)
    _offer_to_oom_killer()
    link = Link(connection)
    send_logs(link)
    setup = link.setup()
    if secrets := setup["secrets"]:
        hide_from_others()
        os.environ.update(secrets)
    config = Config.model_validate_json(setup["config"])
    paths = config.paths
    plugins = PluginManager(paths.plugins, setup["blocked"], cache=paths.cache, models=paths.models)
    worker = Worker(link, config, plugins)
    link.send({"event": "ready"})
    for values in link.tasks():
        worker.run(Task(**{**values, "needs": frozenset(values["needs"])}))


def _flush_output() -> None:
    """What was printed without an end of line belongs to this task, not to the next one."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a plugin may have closed or replaced them
            stream.flush()


def _offer_to_oom_killer() -> None:
    """When the machine's memory is used up, the kernel is to end the plugin, and not the daemon or somebody else."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)


def call_stage(task: Task, config: Config, plugins: PluginManager, progress: ProgressCallback) -> Mapping[str, Any]:
    """Call a plugin's hook, here and now, and check what it gives back; see `Done` for the result.

    Raises:
        MistakesError: the options are wrong.
        PluginError: the plugin cannot be used, or has no such stage.
        HookError: the hook raised, or what it gave back cannot be used.
        Cancelled: `progress` raised it.
    """
    folder = Path(task.folder)
    plugin = plugins.provider(task.stage, task.plugin)
    job = read_job_file(folder)
    artifacts = {name: folder / path for name, path in task.artifacts.items()}
    if job.audio_file:
        artifacts.setdefault("speech", job.audio_file)
    ctx = _context(task, config, plugins, artifacts, progress)
    argument = _STAGE_ARGUMENT.get(task.stage)
    given = {argument: artifacts.get(argument)} if argument else {}
    with blaming(task.stage, task.plugin), _closed_cache_told(ctx.cache):
        returned = plugins.call(task.stage, task.plugin, job=job, ctx=ctx, **given)
    with blaming(task.stage, task.plugin):
        timing = _own_file(ctx.timing_file, ctx.workdir) if ctx.timing_file.exists() else None
        result = {
            **_checked_artifact(task, ctx, returned, given.get("video")),
            "attachments": {
                suffix: _relative(_own_file(path, ctx.workdir), folder) for suffix, path in ctx.attachments.items()
            },
            "report": _checked_report(ctx.report),
            "options": ctx.options.model_dump(mode="json"),
            "timing": _relative(timing, folder) if timing else None,
            "plugin_version": plugin.version,
        }
    made = (result["artifact"], result["timing"], *result["attachments"].values())
    durable.sync_below(folder, [folder / path for path in made if path])
    return result


def _context(
    task: Task, config: Config, plugins: PluginManager, artifacts: Mapping[str, Path], progress: ProgressCallback
) -> Context:
    workdir = Path(task.folder) / task.workdir
    options = plugins.options(task.plugin, task.options, prefix=_prefix(task))
    workdir.mkdir(parents=True, exist_ok=True)
    timing = artifacts.get("timing")
    return Context(
        workdir=workdir,
        cache=_cache(config.paths.cache / task.plugin, workdir),
        models=config.paths.models,
        options=options,
        log=structlog.get_logger(),
        on_progress=progress,
        speech=artifacts.get("speech"),
        wav=artifacts.get("wav"),
        video=artifacts.get("video"),
        timing=read_timing(timing) if timing else (),
        stages=tuple(task.arguments.get("stages", ())),
    )


def _cache(folder: Path, workdir: Path) -> Path:
    """The plugin's cache folder; on a full or read-only disk one in the work folder, which a retry finds again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        structlog.get_logger().warning("the cache cannot be used; this job does without", error=str(error))
        folder = workdir / "cache"
        folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _closed_cache_told(cache: Path) -> Iterator[None]:
    """Put a sentence in the place of what the system says to a plugin that may not write its cache."""
    try:
        yield
    except HookError as error:
        reason = error.__cause__
        if not isinstance(reason, OSError) or not f"{reason.filename}/".startswith(f"{cache}/") or may(cache, WRITE):
            raise
        raise PermanentError(f"{refusal(cache, WRITE)}; {let_in('cache')}") from None


def _prefix(task: Task) -> str:
    return f"post.{task.plugin}" if task.stage == "post" else task.stage


def _checked_artifact(task: Task, ctx: Context, returned: Any, video: Path | None) -> dict[str, Any]:
    """`artifact`, None if a post plugin left the video as it was; for the audio stage also `samples`."""
    if task.stage == "post" and (returned is None or returned == video):
        return {"artifact": None}
    if not isinstance(returned, str | os.PathLike):
        raise PermanentError(f"returned {type(returned).__name__} instead of the path of a file")
    path = _own_file(Path(returned), ctx.workdir)
    result: dict[str, Any] = {"artifact": _relative(path, Path(task.folder))}
    if task.stage == "audio":
        from atenea.media.audio import wav_info  # noqa: PLC0415 - heavy, and only needed here

        result["samples"] = wav_info(path)
    return result


def _own_file(returned: Path, workdir: Path) -> Path:
    """The file as a path without links and dots; it must be one that the plugin wrote into its work folder."""
    given = workdir / returned
    path = given.parent.resolve() / given.name
    if not path.is_relative_to(workdir.resolve()) or given.name in {"", ".."}:
        raise PermanentError(f"returned a path outside its work folder: {given}; write into ctx.workdir")
    try:
        facts = path.lstat()
    except FileNotFoundError:
        raise PermanentError(f"returned the path of a file that is not there: {given}") from None
    if not stat.S_ISREG(facts.st_mode):
        raise PermanentError(f"returned {given}, which is no regular file; write the file itself into ctx.workdir")
    if not facts.st_size:
        raise PermanentError(f"returned an empty file: {given}")
    return path


def _relative(path: Path, folder: Path) -> str:
    return str((path.parent.resolve() / path.name).relative_to(folder.resolve()))


def _checked_report(report: Mapping[str, Any]) -> Any:
    try:
        text = json.dumps(dict(report), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PermanentError(f"put something into ctx.report that JSON cannot hold: {error}") from error
    if len(text) > _REPORT_BYTES:
        raise PermanentError(f"put {len(text):,} bytes into ctx.report; {_REPORT_BYTES:,} are the most, attach a file")
    return json.loads(text)


if __name__ == "__main__":
    main(int(sys.argv[1]))
