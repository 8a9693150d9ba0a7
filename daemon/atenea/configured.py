"""Checks the options that the configuration gives to plugins, at the daemon's start. Runs in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atenea.config import Config
from atenea.errors import AteneaError, MistakesError
from atenea.jobfile import PROVENANCE, JobKeys, post_settings, stage_settings
from atenea.mistakes import nearest
from atenea.plugin_manager import PluginManager
from atenea.presets import unusable_files

_Given = tuple[str, str, str, Mapping[str, Any]]
"""Stage, key that names the plugin, plugin, and options that stand under `stage.plugin`, or in a preset."""


def check_configuration(config: Config, plugins: PluginManager) -> dict[str, list[str]]:
    """`mistakes` of the configuration, plugins that it uses but that are `broken`, and what is wrong with the `files`
    of its presets."""
    mistakes: list[str] = []
    broken: list[str] = []
    for stage, key, name, options in [*_configured(config), *_preset(config)]:
        if name not in plugins.names:
            mistakes.append(f"{key}: there is no plugin {name!r}{nearest(name, plugins.names)}")
            continue
        try:
            plugins.provider(stage, name)
            plugins.options(name, options, prefix=key.removesuffix(".plugin"))
        except MistakesError as error:
            mistakes += error.mistakes
        except AteneaError as error:
            broken.append(str(error))
    return {"mistakes": mistakes, "broken": broken, "files": list(unusable_files(config))}


def _configured(config: Config) -> Iterator[_Given]:
    """The plugins of the configuration's own tables."""
    for stage in ("tts", "audio", "render"):
        table = getattr(config, stage)
        yield stage, f"{stage}.plugin", table.plugin, {}
        for name, options in (table.model_extra or {}).items():
            yield stage, f"{stage}.{name}", name, options
    for name in config.post.plugins:
        yield "post", "post.plugins", name, {}
    for name, options in (config.post.model_extra or {}).items():
        yield "post", f"post.{name}", name, options


def _preset(config: Config) -> Iterator[_Given]:
    """The plugins of the presets, with the options that they would get."""
    for preset, keys in config.presets.items():
        for stage in ("tts", "audio", "render"):
            if keys.stage(stage) != JobKeys().stage(stage):
                settings = stage_settings(stage, [keys], getattr(config, stage))
                yield stage, f"presets.{preset}.{stage}", settings.plugin, settings.options
        marked = bool(keys.post.options(PROVENANCE))
        for settings in post_settings([keys], (), dict(config.post.model_extra or {}), marked=marked):
            yield "post", f"presets.{preset}.post.{settings.plugin}", settings.plugin, settings.options
