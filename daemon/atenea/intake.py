"""Reads what was taken from the inbox and makes a validated job of it. Runs in a worker, which knows the plugins.

The original in the job's folder says what is wanted; pictures and sounds that it names are copied beside it. All
mistakes are found before any paid or slow work, and told at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from atenea import durable
from atenea.config import Config
from atenea.errors import AteneaError, MistakesError
from atenea.executor import Task
from atenea.inbox.names import JOB_FILE, picture_names
from atenea.inbox.nofollow import open_beneath
from atenea.inbox.scan import job_name
from atenea.job import Job, StageSettings
from atenea.job_store import write_job_file
from atenea.jobfile import (
    FILE_KEYS,
    JobKeys,
    decode_text,
    post_settings,
    read_job_toml,
    spoken_text,
    stage_settings,
    unused_post_tables,
)
from atenea.named_files import NOT_ALLOWED, NamedFile, NamedFiles, Place, copy_path
from atenea.naming import printable, safe_stem, shortened
from atenea.plugin_manager import PluginManager
from atenea.rows import MUX, PUBLISH, Step, join_needs

_SINGLE_STAGES = ("tts", "audio", "render")


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
    """A job file's keys, what is wrong with the others, and where the files that it names are looked up."""

    name: str
    keys: JobKeys
    places: tuple[Place, ...]
    mistakes: tuple[str, ...] = ()

    @property
    def text_key(self) -> str:
        """What a sentence about the text begins with: the file itself is the text, or a key in it."""
        return "text: " if self.name.lower().endswith(".toml") else ""


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
        self._assets = Place(config.paths.assets)
        parent = str(self._relative.parent)
        self._beside = Place(beside) if beside else Place(config.paths.inbox, "" if parent == "." else parent)
        at_once = config.watch.settle_seconds == 0
        self._files = NamedFiles(
            previous, at_once=at_once, most_bytes=config.limits.file_bytes, copies=folder / "input"
        )

    def run(self, job_id: str) -> dict[str, Any]:
        """The job's steps, priority and hashes of inputs; or `waiting`: the named files that are not there yet.

        Raises:
            MistakesError: the job cannot be carried out: first with all that is wrong in the job file, then, when the
                files that it names are there, with all that is wrong with them.
        """
        source = self._read_source()
        layers = (self._config.overrides, source.keys, self._preset)
        speaking = next((keys for keys in layers if keys.has_source), JobKeys())
        settings = self._settings(layers)
        named = list(self._named_files(source, speaking))
        self._files.look(named)
        self._refuse(
            source, [*source.mistakes, *self._wrong_text(source, speaking), *self._wrong_options(source, settings)]
        )
        if self._files.waiting:
            return {"waiting": self._files.waiting}

        files = self._files.copy(named)
        self._refuse(source, [])  # one may have been exchanged since the look
        if self._files.waiting:
            return {"waiting": self._files.waiting}
        self._add_own_picture(files)
        text, mistakes = self._text(speaking, files)
        job = self._job(job_id, source, layers, {**files, "text": text}, settings)
        self._refuse(source, [*mistakes, *self._broken_avatar(job), *self._wrong_job(job)])
        durable.sync_below(self._folder, files.values())
        write_job_file(self._folder, job)
        return {
            "steps": [
                {"stage": s.stage, "plugin": s.plugin, "needs": join_needs(s.needs), "options": dict(s.options)}
                for s in self._steps(job)
            ],
            "priority": job.priority,
            "inputs": self._files.hashes,
        }

    def _refuse(self, source: Source, mistakes: list[str]) -> None:
        if mistakes or self._files.mistakes:
            raise MistakesError(source.name, [*mistakes, *self._files.mistakes])

    # The job file

    def _read_source(self) -> Source:
        original = self._folder / "original"
        name = printable(self._relative.name)
        if (original / self._relative).is_dir():
            name = f"{name}/{JOB_FILE}"
            data = self._read(original, self._relative / JOB_FILE, self._config.limits.job_file_bytes)
            return Source(name, *_keys(data, name, (Place(original / self._relative), self._assets)))
        if self._relative.suffix.lower() == ".toml":
            data = self._read(original, self._relative, self._config.limits.job_file_bytes)
            return Source(name, *_keys(data, name, (self._beside, self._assets)))
        data = self._read(original, self._relative, self._most_text_bytes)
        return Source(name, JobKeys(text=decode_text(data, name)), (self._beside, self._assets))

    def _read(self, root: Path, relative: PurePosixPath, limit: int) -> bytes:
        name = printable(relative.name)
        try:
            with os.fdopen(open_beneath(root, str(relative)), "rb") as file:
                data = file.read(limit + 1)
        except PermissionError:
            raise MistakesError(name, [NOT_ALLOWED]) from None
        except OSError as error:
            raise MistakesError(name, [f"cannot be read: {error.strerror}"]) from None
        if len(data) > limit:
            raise MistakesError(name, [f"is larger than {limit:,} bytes; see [limits] in the configuration"])
        return data

    @property
    def _most_text_bytes(self) -> int:
        """What the largest text can take as UTF-8."""
        return 4 * self._config.limits.text_characters

    def _settings(self, layers: Sequence[JobKeys]) -> dict[str, Any]:
        """The settings of tts, audio and render, and of the post stages."""
        post = self._config.post
        return {
            **{stage: stage_settings(stage, layers, getattr(self._config, stage)) for stage in _SINGLE_STAGES},
            "post": post_settings(layers, post.plugins, dict(post.model_extra or {}), marked=post.marked(self._preset)),
        }

    def _wrong_options(self, source: Source, settings: Mapping[str, Any]) -> Iterator[str]:
        for stage, key, chosen in _stages(settings):
            try:
                self._plugins.provider(stage, chosen.plugin)
                self._plugins.options(chosen.plugin, chosen.options, prefix=key)
            except MistakesError as error:
                yield from error.mistakes
            except AteneaError as error:
                yield f"{'post.plugins' if stage == 'post' else f'{stage}.plugin'}: {error}"
            else:
                yield from self._reserved(source, stage, key, chosen.plugin)
        yield from unused_post_tables(source.keys, settings["post"])

    def _reserved(self, source: Source, stage: str, key: str, plugin: str) -> Iterator[str]:
        """The job file's options that only the configuration may set."""
        keys = source.keys
        options = keys.post.options(plugin) if stage == "post" else keys.stage(stage).options
        for name in sorted(self._plugins.load(plugin).options.configuration_only & options.keys()):
            yield f"{key}.{name}: only the configuration may set it"

    # What is spoken

    def _wrong_text(self, source: Source, speaking: JobKeys) -> Iterator[str]:
        """What is wrong with the text, as far as it stands in the job file."""
        if not speaking.has_source and not source.mistakes:
            yield "says nothing to speak: set text, text_file or audio_file"
        elif speaking.text is not None:
            yield from _mistakes_of(self._limited, speaking.text, source.text_key)

    def _text(self, speaking: JobKeys, files: Mapping[str, Path]) -> tuple[str | None, list[str]]:
        """What is to be spoken, None for a job with an audio file; and what is wrong with a text file."""
        if speaking.text is not None:
            text = self._limited(speaking.text, "text")
        elif speaking.text_file is not None:
            name = f"text_file: {shortened(repr(speaking.text_file))}"
            try:
                path = files["text_file"]
                data = self._read(path.parent, PurePosixPath(path.name), self._most_text_bytes)
                text = self._limited(decode_text(data, name), name)
            except MistakesError as error:
                return None, [f"{name} {mistake}" for mistake in error.mistakes]
        else:
            return None, []
        self._files.hashes["text"] = hashlib.sha256(text.encode()).hexdigest()
        return text, []

    def _limited(self, text: str, name: str) -> str:
        most = self._config.limits.text_characters
        if len(text) > most:
            raise MistakesError(name, [f"has {len(text):,} characters of text; {most:,} are the most"])
        return spoken_text(text, name)

    # The files that it names

    def _named_files(self, source: Source, speaking: JobKeys) -> Iterator[NamedFile]:
        """The files that count: of the layer that says what is spoken, and the strongest layer's avatar."""
        assets = (self._assets,)
        given = (Place(self._config.paths.inbox), *assets)
        layers = ((self._config.overrides, given), (source.keys, source.places), (self._preset, assets))
        for key in FILE_KEYS:
            for keys, places in layers:
                name = getattr(keys, key)
                if name is not None and (key == "avatar" or keys is speaking):
                    if not (key == "avatar" and keys is self._preset and self._own_picture()):
                        yield NamedFile(key, name, places)
                    break

    def _own_picture(self) -> Path | None:
        """The picture of the same stem that was taken with a text file."""
        folder = self._folder / "original" / self._relative.parent
        candidates = (folder / name for name in picture_names(self._relative.name))
        # os.path, because a picture's name can be too long where its text's is not.
        return next((path for path in candidates if os.path.isfile(path) and not path.is_symlink()), None)

    def _add_own_picture(self, files: dict[str, Path]) -> None:
        if "avatar" not in files and (picture := self._own_picture()):
            copy = copy_path(self._folder / "input", "avatar", picture.name)
            try:
                # No hard link: the kernel allows none to a file that is another user's.
                durable.copy_synced(picture, copy)
            except PermissionError:
                self._files.mistakes.append(f"avatar: {picture.name!r} {NOT_ALLOWED}")
                return
            self._files.hashes["avatar"] = durable.sha256_file(copy)
            files["avatar"] = copy

    def _broken_avatar(self, job: Job) -> list[str]:
        if job.avatar is None:
            return []
        from atenea.media.pictures import load_avatar  # noqa: PLC0415 - only jobs with a picture pay for it

        try:
            load_avatar(job.avatar, max_pixels=self._config.limits.picture_pixels)
        except AteneaError as error:
            return [f"avatar: {error}"]
        return []

    # The job

    def _job(
        self,
        job_id: str,
        source: Source,
        layers: Sequence[JobKeys],
        made: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Job:
        return Job(
            id=job_id,
            name=safe_stem(job_name(str(self._relative), is_folder="/" in source.name)),
            preset=self._preset_name,
            priority=next((keys.priority for keys in layers if keys.priority is not None), 0),
            text=made["text"],
            audio_file=made.get("audio_file"),
            avatar=made.get("avatar"),
            **{**settings, "tts": settings["tts"] if made["text"] else None},
        )

    def _wrong_job(self, job: Job) -> Iterator[str]:
        """What the plugins would refuse."""
        for stage, key, chosen in _stages(dict(job)):
            yield from self._plugins.mistakes(self._plugins.provider(stage, chosen.plugin), key, chosen.options, job)

    def _steps(self, job: Job) -> list[Step]:
        steps = [
            Step(
                stage=stage,
                plugin=chosen.plugin,
                needs=self._plugins.provider(stage, chosen.plugin).needs,
                options=chosen.options,
            )
            for stage, _, chosen in _stages(dict(job))
        ]
        first_post = len(steps) - len(job.post)
        return [*steps[:first_post], MUX, *steps[first_post:], PUBLISH]


def _keys(data: bytes, name: str, places: tuple[Place, ...]) -> tuple[JobKeys, tuple[Place, ...], tuple[str, ...]]:
    keys, mistakes = read_job_toml(data, name)
    return keys, places, tuple(mistakes)


def _stages(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, StageSettings]]:
    """Stage, key of its table, and settings of each stage that the job has."""
    for stage in _SINGLE_STAGES:
        if settings[stage] is not None:
            yield stage, stage, settings[stage]
    for chosen in settings["post"]:
        yield "post", f"post.{chosen.plugin}", chosen


def _mistakes_of(check: Callable[[str, str], Any], text: str, key: str) -> list[str]:
    try:
        check(text, key)
    except MistakesError as error:
        return [f"{key}{mistake}" for mistake in error.mistakes]
    return []
