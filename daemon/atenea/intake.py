"""Reads what was taken from the inbox and makes a validated job of it. Runs in a worker, which knows the plugins.

The original in the job's folder says what is wanted; pictures and sounds that it names are copied beside it. All
mistakes are found before any paid or slow work, and told at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atenea import durable
from atenea.config import Config
from atenea.errors import AteneaError, MistakesError
from atenea.executor import Task
from atenea.inbox.names import JOB_FILE, picture_names
from atenea.inbox.nofollow import open_beneath
from atenea.inbox.readings import Reading
from atenea.inbox.scan import job_name
from atenea.job import Job, StageSettings
from atenea.job_store import write_job_file
from atenea.jobfile import (
    FILE_KEYS,
    JobKeys,
    decode_text,
    parse_job_toml,
    post_settings,
    spoken_text,
    stage_settings,
    unused_post_tables,
)
from atenea.naming import printable, safe_stem
from atenea.plugin_manager import PluginManager
from atenea.rows import MUX, PUBLISH, Step, join_needs

_CHUNK = 1 << 20


def read_job(task: Task, config: Config, plugins: PluginManager) -> dict[str, Any]:
    """The intake of the job whose folder the task names; see `Intake.run`."""
    arguments = task.arguments
    return Intake(
        config,
        plugins,
        Path(task.folder),
        relative=arguments["relative"],
        preset=arguments["preset"],
        previous=arguments["previous"],
        beside=Path(arguments["beside"]) if "beside" in arguments else None,
    ).run(task.job_id)


@dataclass(frozen=True)
class Source:
    """A job file's keys, and where the files that it names are looked up, nearest first."""

    name: str
    keys: JobKeys
    roots: tuple[Path, ...]


class Intake:
    """The intake of one job.

    Args:
        folder: the job's folder; `original/` in it mirrors the inbox.
        relative: the path of the job file or job folder below the inbox.
        preset: the name of the preset folder it was in.
        previous: readings of named files from the last attempt: a file is used when it did not change since.
        beside: where the job file lay, if not in the inbox.
    """

    def __init__(
        self,
        config: Config,
        plugins: PluginManager,
        folder: Path,
        *,
        relative: str,
        preset: str | None,
        previous: Mapping[str, Any],
        beside: Path | None = None,
    ) -> None:
        self._config = config
        self._plugins = plugins
        self._folder = folder
        self._relative = PurePosixPath(relative)
        self._preset = config.presets.get(preset, JobKeys()) if preset else JobKeys()
        self._preset_name = preset
        self._previous = previous
        self._beside = beside or config.paths.inbox / self._relative.parent
        self._waiting: dict[str, Any] = {}
        self._inputs: dict[str, str] = {}

    def run(self, job_id: str) -> dict[str, Any]:
        """The job's steps, priority and hashes of inputs; or `waiting`: the named files that are not there yet.

        Raises:
            MistakesError: the job file cannot be carried out.
        """
        source = self._read_source()
        layers = (self._config.overrides, source.keys, self._preset)
        files = self._collect_files(source)
        if self._waiting:
            return {"waiting": self._waiting}
        text = self._text(source, layers, files)
        if text:
            self._inputs["text"] = hashlib.sha256(text.encode()).hexdigest()
        tts, audio, render = (
            stage_settings(stage, layers, getattr(self._config, stage)) for stage in ("tts", "audio", "render")
        )
        post = self._config.post
        job = Job(
            id=job_id,
            name=safe_stem(job_name(str(self._relative), is_folder=source.name != self._relative.name)),
            preset=self._preset_name,
            priority=next((keys.priority for keys in layers if keys.priority is not None), 0),
            text=text,
            audio_file=files.get("audio_file"),
            avatar=files.get("avatar"),
            tts=tts if text else None,
            audio=audio,
            render=render,
            post=post_settings(layers, post.plugins, dict(post.model_extra or {})),
        )
        steps = self._steps(job, source)
        write_job_file(self._folder, job)
        return {
            "steps": [
                {"stage": s.stage, "plugin": s.plugin, "needs": join_needs(s.needs), "options": dict(s.options)}
                for s in steps
            ],
            "priority": job.priority,
            "inputs": self._inputs,
        }

    # The job file

    def _read_source(self) -> Source:
        original = self._folder / "original"
        path = original / self._relative
        name = self._relative.name
        limit = self._config.limits.job_file_bytes
        if path.is_dir():
            keys = parse_job_toml(self._read(original, self._relative / JOB_FILE, limit), f"{name}/{JOB_FILE}")
            return Source(f"{name}/{JOB_FILE}", keys, (path, self._config.paths.assets))
        if path.suffix.lower() == ".toml":
            keys = parse_job_toml(self._read(original, self._relative, limit), name)
        else:
            data = self._read(original, self._relative, 4 * self._config.limits.text_characters)
            keys = JobKeys(text=decode_text(data, name))
        return Source(name, keys, (self._beside, self._config.paths.assets))

    def _read(self, root: Path, relative: PurePosixPath, limit: int) -> bytes:
        try:
            with os.fdopen(open_beneath(root, str(relative)), "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise MistakesError(relative.name, [f"cannot be read: {error.strerror}"]) from None
        if len(data) > limit:
            raise MistakesError(relative.name, [f"is larger than {limit:,} bytes; see [limits] in the configuration"])
        return data

    def _text(self, source: Source, layers: tuple[JobKeys, ...], files: Mapping[str, Path]) -> str | None:
        speaking = next((keys for keys in layers if keys.has_source), None)
        if speaking is None:
            raise MistakesError(source.name, ["says nothing to speak: set text, text_file or audio_file"])
        if speaking.text is not None:
            text = spoken_text(speaking.text, f"{source.name}: text")
        elif speaking.text_file is not None:
            path = files["text_file"]
            data = self._read(path.parent, PurePosixPath(path.name), 4 * self._config.limits.text_characters)
            text = decode_text(data, speaking.text_file)
        else:
            return None
        most = self._config.limits.text_characters
        if len(text) > most:
            raise MistakesError(source.name, [f"has {len(text):,} characters of text; {most:,} are the most"])
        return text

    # The files that it names

    def _collect_files(self, source: Source) -> dict[str, Path]:
        target = self._folder / "input"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        files = {}
        for key, name, roots in self._named_files(source):
            found = self._copy(key, name, roots, target, source.name)
            if found:
                files[key] = found
        if "avatar" not in files and (picture := self._own_picture()):
            files["avatar"] = _place(target, "avatar", picture.name)
            os.link(picture, files["avatar"])
            self._inputs["avatar"] = durable.sha256_file(picture)
        return files

    def _named_files(self, source: Source) -> Iterator[tuple[str, str, tuple[Path, ...]]]:
        """Key, name and where to look, for each named file of the strongest layer that names one."""
        assets = (self._config.paths.assets,)
        given = (self._config.paths.inbox, *assets)
        layers = ((self._config.overrides, given), (source.keys, source.roots), (self._preset, assets))
        speaking = next((keys for keys, _ in layers if keys.has_source), None)
        for key in FILE_KEYS:
            for keys, roots in layers:
                name = getattr(keys, key)
                if name is not None and (key == "avatar" or keys is speaking):
                    if not (key == "avatar" and keys is self._preset and self._own_picture()):
                        yield key, name, roots
                    break

    def _own_picture(self) -> Path | None:
        """The picture of the same stem that was taken with a text file."""
        folder = self._folder / "original" / self._relative.parent
        candidates = (folder / name for name in picture_names(self._relative.name))
        # os.path, because a picture's name can be too long where its text's is not.
        return next((path for path in candidates if os.path.isfile(path) and not path.is_symlink()), None)

    def _copy(self, key: str, name: str, roots: tuple[Path, ...], target: Path, subject: str) -> Path | None:
        for root in roots:
            try:
                descriptor = open_beneath(root, name)
            except FileNotFoundError:
                continue
            except OSError as error:
                mistake = f"{key}: {name!r} is no plain file beside the job or in the assets folder ({error.strerror})"
                raise MistakesError(subject, [mistake]) from None
            with os.fdopen(descriptor, "rb") as file:
                return self._copy_settled(key, name, file, _place(target, key, name), subject)
        self._waiting[name] = None
        return None

    def _copy_settled(self, key: str, name: str, file: Any, target: Path, subject: str) -> Path | None:
        before = list(Reading.of(os.fstat(file.fileno())))
        if before[2] > self._config.limits.file_bytes:
            raise MistakesError(subject, [f"{key}: {name!r} is larger than {self._config.limits.file_bytes:,} bytes"])
        if self._config.watch.settle_seconds > 0 and self._previous.get(name) != before:
            self._waiting[name] = before
            return None
        digest = hashlib.sha256()
        with target.open("wb") as copy:
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
                digest.update(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        after = list(Reading.of(os.fstat(file.fileno())))
        if after != before:
            self._waiting[name] = after
            return None
        self._inputs[key] = digest.hexdigest()
        return target

    # The steps

    def _steps(self, job: Job, source: Source) -> list[Step]:
        stages: list[tuple[str, str, StageSettings]] = [("audio", "audio", job.audio), ("render", "render", job.render)]
        if job.tts:
            stages.insert(0, ("tts", "tts", job.tts))
        stages += [("post", f"post.{settings.plugin}", settings) for settings in job.post]
        mistakes = list(unused_post_tables(source.keys, job.post))
        steps = []
        for stage, key, settings in stages:
            try:
                plugin = self._plugins.provider(stage, settings.plugin)
                mistakes += self._plugins.mistakes(plugin, key, settings.options, job)
                steps.append(Step(stage=stage, plugin=settings.plugin, needs=plugin.needs, options=settings.options))
            except AteneaError as error:
                mistakes.append(f"{stage}.plugin: {error}")
        mistakes += self._broken_avatar(job)
        if mistakes:
            raise MistakesError(source.name, mistakes)
        first_post = next((n for n, step in enumerate(steps) if step.stage == "post"), len(steps))
        return [*steps[:first_post], MUX, *steps[first_post:], PUBLISH]

    def _broken_avatar(self, job: Job) -> list[str]:
        if job.avatar is None:
            return []
        from atenea.media.pictures import load_avatar  # noqa: PLC0415 - only jobs with a picture pay for it

        try:
            load_avatar(job.avatar, max_pixels=self._config.limits.picture_pixels)
        except AteneaError as error:
            return [f"avatar: {error}"]
        return []


def _place(inputs: Path, key: str, name: str) -> Path:
    """Where the copy of a named file goes: under its own name, which sentences show, as far as JSON can hold it."""
    folder = inputs / key
    folder.mkdir()
    return folder / printable(PurePosixPath(name).name)
