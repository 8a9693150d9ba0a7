"""The plugins that the configuration uses: whether they are refused, and what each says about this machine.

Plugins are imported only in worker processes; one that raises, hangs or dies there is a finding.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from atenea.config import Config
from atenea.errors import TransientError
from atenea.executor import Failed, Task
from atenea.finding import Finding, finding_of
from atenea.job import StageSettings, thawed
from atenea.jobfile import post_settings, stage_settings
from atenea.local_executor import LocalExecutor, catalogue

PATIENCE_SECONDS = 60.0
"""How long a plugin may look at the machine: importing torch from a slow disk takes a while."""

_MEND_OPTIONS = "mend it in the configuration; docs/reference.md has every option"
_MEND_PLUGIN = "mend or remove the plugin"

Sections = dict[str, list[Finding]]
"""Findings by what they are about."""


@dataclass(frozen=True)
class Use:
    """A plugin with the options that jobs get.

    Attributes:
        title: the plugin's name, behind the preset's if it is used so only there.
        stage: what it does.
        settings: its name and options.
    """

    title: str
    stage: str
    settings: StageSettings


async def plugin_sections(config: Config, secrets: Mapping[str, str], seconds: float = PATIENCE_SECONDS) -> Sections:
    """Ask every plugin that the configuration and its presets use; each may take so many seconds."""
    hasty = config.workers.model_copy(update={"cancel_seconds": 1.0})
    executor = LocalExecutor(config.model_copy(update={"workers": hasty}), secrets)
    try:
        plugins = {plugin["name"]: plugin for plugin in await catalogue(executor)}
        used = list(uses(config))
        mistakes, broken = await _mistakes(executor)
        sections = {
            "configuration": [finding_of("options", "problem", text, _MEND_OPTIONS) for text in mistakes],
            "plugins": [finding_of("refused", "problem", text, _MEND_PLUGIN) for text in broken]
            + list(_others(plugins.values(), {use.settings.plugin for use in used}, broken)),
        }
        for use in used:
            plugin = plugins.get(use.settings.plugin)
            if plugin and use.stage in plugin["stages"]:
                found = await _diagnosis(executor, use, frozenset(plugin["needs"]), seconds)
                told = sections.get(use.settings.plugin, [])
                sections.setdefault(use.title, []).extend([finding for finding in found if finding not in told])
    except TransientError as error:
        return {"plugins": [Finding("workers", "problem", str(error), f"let this user start {sys.executable}")]}
    finally:
        await executor.close()
    return sections


def uses(config: Config) -> Iterator[Use]:
    """What plain jobs use, then what the presets use otherwise."""
    seen: list[tuple[str, StageSettings]] = []
    post, tables = config.post, dict(config.post.model_extra or {})
    for preset, keys in [("", None), *config.presets.items()]:
        layers = [keys] if keys else []
        given = [(stage, stage_settings(stage, layers, getattr(config, stage))) for stage in ("tts", "audio", "render")]
        last = post_settings(layers, post.plugins, tables, marked=post.marked(keys))
        given += [("post", settings) for settings in last]
        for stage, settings in given:
            if (stage, settings) not in seen:
                seen.append((stage, settings))
                yield Use(f"{preset}/{settings.plugin}" if preset else settings.plugin, stage, settings)


async def _mistakes(executor: LocalExecutor) -> tuple[list[str], list[str]]:
    """What is wrong with what the configuration gives to plugins and names, and with the plugins that it names."""
    outcome = await executor.run(Task(kind="configuration", needs=frozenset({"intake"})), _ignore)
    if isinstance(outcome, Failed):
        return [], [outcome.error]
    mistakes = [*outcome.result["mistakes"], *outcome.result["files"]]
    return mistakes, list(dict.fromkeys(outcome.result["broken"]))


def _others(plugins: Iterable[Mapping[str, Any]], used: Collection[str], told: Collection[str]) -> Iterator[Finding]:
    """The plugins in use that can be used, and the refused ones that were not told of yet."""
    for plugin in plugins:
        if plugin["refused"] and plugin["refused"] not in told:
            yield finding_of("refused", "note", plugin["refused"], _MEND_PLUGIN)
        elif plugin["name"] in used and not plugin["refused"]:
            yield Finding(plugin["name"], "ok", f"{', '.join(plugin['stages'])}, from {plugin['source']}")


async def _diagnosis(executor: LocalExecutor, use: Use, needs: frozenset[str], seconds: float) -> list[Finding]:
    """What a plugin says about this machine."""
    name = use.settings.plugin
    task = Task(kind="diagnosis", needs=needs, stage=use.stage, plugin=name, options=thawed(use.settings.options))
    try:
        async with asyncio.timeout(seconds):
            outcome = await executor.run(task, _ignore)
    except TimeoutError:
        text = f"plugin {name!r} looked at this machine for {seconds:g} s without an end, and was ended"
        return [Finding("diagnose", "problem", text, f"{_MEND_PLUGIN}, if it does that again")]
    if isinstance(outcome, Failed):
        return [finding_of("diagnose", "problem", outcome.error, _MEND_PLUGIN)]
    return [Finding(**finding) for finding in outcome.result["findings"]]


def _ignore(_fraction: float, _text: str) -> None:
    """Progress that nobody asked for."""
