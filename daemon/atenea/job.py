"""A job as the stages see it: validated and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer

Stage = str
"""One of `STAGES`."""

STAGES: tuple[Stage, ...] = ("tts", "audio", "render", "post")


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


def thawed(value: Any) -> Any:
    """Plain dicts and lists from frozen ones, as JSON wants them."""
    if isinstance(value, Mapping):
        return {key: thawed(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [thawed(item) for item in value]
    return value


FrozenMapping = Annotated[Mapping[str, Any], AfterValidator(_frozen), PlainSerializer(thawed)]


class StageSettings(BaseModel):
    """The plugin that serves a stage of a job, and the options that job, preset and configuration give it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plugin: str
    options: FrozenMapping = {}


class Job(BaseModel):
    """One job. Exactly one of `text` and `audio_file` is set; `tts` is None when there is no speech to make.

    Paths are absolute and lie inside the job's own folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    preset: str | None = None
    priority: int = 0
    text: str | None = None
    audio_file: Path | None = None
    avatar: Path | None = None
    tts: StageSettings | None = None
    audio: StageSettings
    render: StageSettings
    post: tuple[StageSettings, ...] = ()
