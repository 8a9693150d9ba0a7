"""Runs one stage of a plugin in this process, with a real context, as a worker of the daemon does.

A run leaves its files in `FOLDER/jobs/JOB/`: a run of the same job goes on in the work folder of the one before it, as
after a crash; another job begins anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from structlog.testing import capture_logs

from atenea.config import Config, Paths
from atenea.errors import Cancelled
from atenea.executor import Task
from atenea.failures import failure_event
from atenea.finding import Finding
from atenea.job import Job, StageSettings
from atenea.job_store import write_job_file
from atenea.plugin_manager import PluginManager
from atenea.testing.inputs import write_speech, write_video
from atenea.timing import TimedText, read_timing, write_timing
from atenea.worker import call_stage

TEXT = "Hello from a test."

_INPUTS = {"tts": (), "audio": ("speech",), "render": ("speech", "wav"), "post": ("speech", "wav", "video")}
"""What earlier stages have made when a stage begins."""


class StageError(Exception):
    """A stage failed; the sentence is what NAME.error.txt would begin with, `__cause__` what was raised.

    Attributes:
        transient: whether the daemon would try again.
        retry_after: the least number of seconds that it would wait, if the plugin named one.
        details: what NAME.error.txt would have below the sentence: a traceback, or nothing.
    """

    def __init__(self, sentence: str, *, transient: bool, retry_after: float | None, details: str) -> None:
        super().__init__(sentence)
        self.transient = transient
        self.retry_after = retry_after
        self.details = details


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did.

    Attributes:
        path: the file that it made; None of a post stage that left the video as it was.
        progress: fraction and text of each call of `ctx.progress`.
        report: what it put into `ctx.report`.
        attachments: files by their suffixes.
        timing: what it gave to `ctx.save_timing`.
        options: all of them, defaults filled in, as JSON values.
        log: what it gave to `ctx.log`: `event`, `log_level`, and the fields.
    """

    path: Path | None
    progress: tuple[tuple[float, str], ...]
    report: Mapping[str, Any]
    attachments: Mapping[str, Path]
    timing: tuple[TimedText, ...]
    options: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]


class Recorder:
    """Takes what `ctx.progress` is told; from the call `cancel_at` on, the job is cancelled."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.calls: list[tuple[float, str]] = []
        self._cancel_at = cancel_at

    def __call__(self, fraction: float, text: str) -> None:
        """What `ctx.progress` does."""
        self.calls.append((fraction, str(text)))
        if self.cancelled:
            raise Cancelled

    @property
    def cancelled(self) -> bool:
        """Whether the job is cancelled by now."""
        return self._cancel_at is not None and len(self.calls) >= self._cancel_at


def run_stage(
    plugin: str | Path,
    stage: str,
    *,
    folder: Path,
    text: str = TEXT,
    options: Mapping[str, Any] = MappingProxyType({}),
    avatar: Path | None = None,
    audio_file: Path | None = None,
    speech: Path | None = None,
    wav: Path | None = None,
    video: Path | None = None,
    timing: Iterable[TimedText] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    seconds: float = 1.0,
    cancel_at: int | None = None,
    job: str = "test",
) -> StageResult:
    """Call a plugin's hook as a worker does: options validated, what it returns checked, the log captured.

    Args:
        plugin: the path of its file, or its name if it is installed or comes with atenea.
        stage: tts, audio, render or post.
        folder: files are written below it, such as pytest's `tmp_path`.
        text: of the job.
        options: as a job file or the configuration gives them.
        avatar: of the job; it is copied.
        audio_file: of the job, which then has no text; it is copied.
        speech: what earlier stages made. What the stage needs and is not given, is made: `seconds` long.
        wav: see `speech`; 16 kHz, mono, 16 bit.
        video: see `speech`.
        timing: when each piece of the text is spoken.
        stages: for post plugins, what `ctx.stages` tells of the stages before.
        seconds: how long the inputs are that are made.
        cancel_at: this call of `ctx.progress`, counted from 1, and all later ones raise `Cancelled`.
        job: the job's name; a second run of the same job goes on in the same work folder.

    Raises:
        StageError: the hook failed, what it gave back cannot be used, or the options are wrong.
        Cancelled: the job was cancelled.
    """
    bench = Bench(*found(plugin, folder), stage, folder / "jobs" / job, folder / "cache")
    made = {"speech": speech, "wav": wav, "video": video}
    bench.set_up(text=text, options=options, avatar=avatar, audio_file=audio_file)
    bench.give({name: path for name, path in made.items() if path}, timing=timing, seconds=seconds)
    return bench.run(Recorder(cancel_at), stages)


def find_mistakes(
    plugin: str | Path,
    stage: str,
    *,
    folder: Path,
    text: str = TEXT,
    options: Mapping[str, Any] = MappingProxyType({}),
    avatar: Path | None = None,
    audio_file: Path | None = None,
) -> list[str]:
    """What would be refused about a job before its first stage: wrong options, and what the hook `check` says.

    The arguments are those of `run_stage`.

    Raises:
        PluginError: the plugin cannot be used, or has no such stage.
        HookError: `check` raised.
    """
    bench = Bench(*found(plugin, folder), stage, folder / "jobs" / "mistakes", folder / "cache")
    bench.set_up(text=text, options=options, avatar=avatar, audio_file=audio_file)
    return bench.mistakes()


def diagnose(plugin: str | Path, *, folder: Path, options: Mapping[str, Any] = MappingProxyType({})) -> list[Finding]:
    """What the plugin's hook `diagnose` finds on this machine, as `atenea doctor` asks for it.

    The arguments are those of `run_stage`.

    Raises:
        MistakesError: the options are wrong.
        PluginError: the plugin cannot be used.
        HookError: the hook raised, or returned something else than a list of findings.
    """
    name, plugins = found(plugin, folder)
    with chdir("/"):
        return plugins.diagnose(name, options)


class Bench:
    """One plugin, and the folder of one job for it."""

    def __init__(self, name: str, plugins: PluginManager, stage: str, folder: Path, cache: Path) -> None:
        if stage not in _INPUTS:
            raise ValueError(f"there is no stage {stage!r}, only {', '.join(_INPUTS)}")
        self.name = name
        self.plugins = plugins
        self.stage = stage
        self.folder = Path(os.path.abspath(folder))
        self.config = Config(paths=Paths(cache=Path(os.path.abspath(cache))).under(self.folder))
        self._artifacts: dict[str, str] = {}
        self._options: Mapping[str, Any] = {}

    def set_up(
        self,
        *,
        text: str = TEXT,
        options: Mapping[str, Any] = MappingProxyType({}),
        avatar: Path | None = None,
        audio_file: Path | None = None,
    ) -> None:
        """Write the job into its folder, with copies of the files that it names."""
        chosen = StageSettings(plugin=self.name, options=dict(options))
        plain = {"audio": StageSettings(plugin="wav"), "render": StageSettings(plugin="preview")}
        self._options = options
        self.job = Job(
            id="test",
            name=self.folder.name,
            text=None if audio_file else text,
            audio_file=self._copied(audio_file),
            avatar=self._copied(avatar),
            **{**plain, self.stage: (chosen,) if self.stage == "post" else chosen},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_job_file(self.folder, self.job)

    def give(self, made: Mapping[str, Path], *, timing: Iterable[TimedText] = (), seconds: float = 1.0) -> None:
        """Put there what earlier stages made; what is missing of it is made."""
        inputs = self.folder / "input"
        inputs.mkdir(exist_ok=True)
        for name in _INPUTS[self.stage]:
            if name in made:
                self._artifacts[name] = os.path.abspath(made[name])
            elif name == "video":
                self._artifacts[name] = str(write_video(inputs / "video.mp4", seconds))
            elif name == "wav" or not self.job.audio_file:
                self._artifacts[name] = str(write_speech(inputs / f"{name}.wav", seconds))
        if pieces := list(timing):
            write_timing(inputs / "timing.json", pieces)
            self._artifacts["timing"] = "input/timing.json"

    @property
    def artifacts(self) -> Mapping[str, Path]:
        """What earlier stages made, by name."""
        return {name: self.folder / path for name, path in self._artifacts.items()}

    def run(self, progress: Recorder, stages: Sequence[Mapping[str, Any]] = ()) -> StageResult:
        """Call the hook; see `run_stage`."""
        task = Task(
            kind="stage",
            needs=frozenset(),
            job_id=self.job.id,
            folder=str(self.folder),
            stage=self.stage,
            plugin=self.name,
            workdir=f"work/{self.stage}",
            options=self._options,
            artifacts=self._artifacts,
            arguments={"stages": stages},
        )
        with chdir("/"), capture_logs() as log, _as_the_daemon_says(task):
            result = call_stage(task, self.config, self.plugins, progress)
        timing = result["timing"]
        return StageResult(
            path=self.folder / result["artifact"] if result["artifact"] else None,
            progress=tuple(progress.calls),
            report=result["report"],
            attachments={suffix: self.folder / path for suffix, path in result["attachments"].items()},
            timing=read_timing(self.folder / timing) if timing else (),
            options=result["options"],
            log=tuple(log),
        )

    def mistakes(self) -> list[str]:
        """What intake would say about the job."""
        prefix = f"post.{self.name}" if self.stage == "post" else self.stage
        with chdir("/"):
            return self.plugins.mistakes(self.plugins.provider(self.stage, self.name), prefix, self._options, self.job)

    def _copied(self, file: Path | None) -> Path | None:
        if file is None:
            return None
        copy = self.folder / "input" / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        return copy


def located(plugin: str | Path) -> tuple[str, Path | None]:
    """The plugin's name, and the folder of its file if it is one."""
    path = Path(os.path.abspath(plugin))
    if isinstance(plugin, Path) or path.suffix == ".py":
        return path.stem, path.parent
    return plugin, None


def found(plugin: str | Path, folder: Path) -> tuple[str, PluginManager]:
    """The plugin's name, and a manager that finds it."""
    name, plugins = located(plugin)
    return name, PluginManager(plugins or folder / "plugins", cache=Path(os.path.abspath(folder / "cache")))


@contextmanager
def _as_the_daemon_says(task: Task) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a worker goes on whatever is raised, and says it like this
        event = failure_event(error, task)
        raise StageError(
            event["error"], transient=event["transient"], retry_after=event["retry_after"], details=event["details"]
        ) from getattr(error, "__cause__", None) or error
