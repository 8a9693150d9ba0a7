"""The plugins, in a worker process: finds, checks, lists and calls them by name. A typed wrapper around pluggy.

pluggy's own errors name neither plugin nor stage; everything raised here names both.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import pluggy
import structlog
from pydantic.errors import PydanticUserError

from atenea import hookspecs
from atenea.context import Context
from atenea.errors import AteneaError, MistakesError, PermanentError
from atenea.executor import PLUGIN_NEEDS
from atenea.finding import Finding
from atenea.job import STAGES, Job, Stage, thawed
from atenea.mistakes import Invalid, validated
from atenea.naming import shortened
from atenea.options import PluginOptions
from atenea.plugin_files import UnsafePluginError
from atenea.plugin_sources import PluginSource, find_plugins, is_plugin_name


class PluginError(PermanentError):
    """A plugin that cannot be used: its name, where it comes from, why, and what to do."""


class HookError(AteneaError):
    """A plugin did not do its work. The sentence names stage and plugin; `__cause__` is what it raised."""


class _Refused(Exception):  # noqa: N818 - a verdict with its reason, always caught
    """Why an imported module cannot be a plugin."""


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin."""

    name: str
    source: PluginSource
    module: Any
    stages: tuple[Stage, ...]
    has_check: bool
    has_diagnose: bool
    options: type[PluginOptions]
    options_schema: Mapping[str, Any]
    needs: frozenset[str]
    version: str | None


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """What `atenea plugins` shows about a plugin, in JSON values.

    Attributes:
        source: its file, or its distribution and version.
        options: the JSON schema of its options.
        refused: why it cannot be used, if so.
        shadows: sources of other plugins with the same name, which it hides.
    """

    name: str
    source: str
    version: str | None = None
    stages: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    refused: str | None = None
    shadows: list[str] = field(default_factory=list)


class PluginManager:
    """All plugins that there are; each is imported when it is first used.

    Args:
        plugins_folder: the user's own plugins; they win over those of the same name from elsewhere.
        blocked: plugins that must not be imported, and why.
        cache: plugins keep their caches under it.
        models: where the models of Hallo2 are.
    """

    def __init__(
        self,
        plugins_folder: Path,
        blocked: Mapping[str, str] = MappingProxyType({}),
        *,
        cache: Path | None = None,
        models: Path = Path("models"),
    ) -> None:
        self._blocked = blocked
        self._cache = cache
        self._models = models
        self._folder = plugins_folder
        self._sources = find_plugins(plugins_folder)
        self._loaded: dict[str, Plugin] = {}
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._log_shadowed()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all plugins, also of those that will be refused."""
        return tuple(self._sources)

    def load(self, name: str) -> Plugin:
        """The plugin, imported if it was not yet.

        Raises:
            PluginError: there is none of this name, or it cannot be used.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def load_all(self, before: Callable[[str], None] = lambda _name: None) -> list[PluginInfo]:
        """Every plugin, also the refused ones; `before` is called with each name before its import."""
        return [self._info(name, before) for name in self._sources]

    def provider(self, stage: Stage, name: str) -> Plugin:
        """The plugin, if it provides the stage.

        Raises:
            PluginError: it does not, or it cannot be used.
        """
        plugin = self.load(name)
        if stage not in plugin.stages:
            raise PluginError(
                f"{_title(name, plugin.source)} has no {stage} stage, only {', '.join(plugin.stages)}; "
                f"name one that has"
            )
        return plugin

    def options(self, name: str, values: Mapping[str, Any], *, prefix: str = "") -> PluginOptions:
        """The plugin's validated options; `prefix` is the table that they stand in, such as "tts".

        Raises:
            MistakesError: with all mistakes.
            PluginError: the plugin cannot be used.
        """
        plugin = self.load(name)
        try:
            return validated(plugin.options, thawed(values), prefix)
        except Invalid as invalid:
            raise MistakesError(f"options of plugin {name!r}", invalid.mistakes) from None
        except Exception as error:
            raise PluginError(f"{_title(name, plugin.source)} cannot check its options: {describe(error)}") from error

    def mistakes(self, plugin: Plugin, prefix: str, values: Mapping[str, Any], job: Job) -> list[str]:
        """What is wrong with these options, and what the plugin would refuse about the job."""
        try:
            options = self.options(plugin.name, values, prefix=prefix)
        except MistakesError as error:
            return list(error.mistakes)
        return self._check(plugin, options, job) if plugin.has_check else []

    def diagnose(self, name: str, values: Mapping[str, Any]) -> list[Finding]:
        """What the plugin finds on this machine, with these options for jobs.

        Raises:
            MistakesError: the options are wrong.
            PluginError: the plugin cannot be used.
            HookError: the hook raised, or returned something else.
        """
        plugin = self.load(name)
        options = self.options(name, values)
        if not plugin.has_diagnose:
            return []
        with self._looking(plugin, options) as ctx, blaming("diagnose", name):
            found = self.call("diagnose", name, ctx=ctx) or []
            if not isinstance(found, list) or not all(isinstance(finding, Finding) for finding in found):
                raise PermanentError("returned something else than a list of findings")
            return found

    def call(self, hook: str, name: str, *, ctx: Context, **arguments: Any) -> Any:
        """Call one plugin's hook; what it returned.

        Raises:
            PluginError: the plugin cannot be used.
            HookError: the hook raised.
            Cancelled: the job was cancelled.
        """
        self.load(name)
        others = [plugin.module for plugin in self._loaded.values() if plugin.name != name]
        caller = self._pluggy.subset_hook_caller(hook, others)
        with blaming(hook, name):
            return caller(ctx=ctx, **arguments)

    def _check(self, plugin: Plugin, options: PluginOptions, job: Job) -> list[str]:
        with self._looking(plugin, options) as ctx:
            found = self.call("check", plugin.name, job=job, ctx=ctx)
        sentences = [found] if isinstance(found, str) else found or []
        return [f"plugin {plugin.name!r}: {sentence}" for sentence in sentences]

    @contextmanager
    def _looking(self, plugin: Plugin, options: PluginOptions) -> Iterator[Context]:
        """What a hook gets that only looks."""
        with TemporaryDirectory(prefix="atenea-check-") as folder:
            yield Context(
                workdir=Path(folder),
                cache=(self._cache or Path(folder)) / plugin.name,
                models=self._models,
                options=options,
                log=structlog.get_logger(),
                on_progress=lambda _fraction, _text: None,
            )

    def _load(self, name: str) -> Plugin:
        source = self._source(name)
        title = _title(name, source)
        try:
            module = source.load()
        except UnsafePluginError as error:
            raise PluginError(f"plugin {name!r} is refused: {error}") from error
        except BaseException as error:
            raise PluginError(f"{title} {_import_failure(error, source)}") from error
        try:
            plugin = _inspected(name, source, module)
            self._pluggy.register(module, name)
        except _Refused as error:
            raise PluginError(f"{title} is refused: {error}") from None
        except Exception as error:
            raise PluginError(f"{title} is not a plugin: {describe(error)}") from error
        return plugin

    def _source(self, name: str) -> PluginSource:
        if name not in self._sources:
            if is_plugin_name(name) and os.path.isfile(self._folder / f"{name}.py"):  # False if it cannot be looked at
                raise PluginError(f"plugin {name!r} came after the daemon's start; send it SIGHUP, then: atenea retry")
            near = difflib.get_close_matches(name, self._sources, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self._sources) or 'none'}"
            raise PluginError(f"there is no plugin {shortened(repr(name))}; {hint}")
        source = self._sources[name][0]
        if not is_plugin_name(name):
            raise PluginError(
                f"plugin {name!r} ({source}) has a name with other characters than A-Z, a-z, 0-9, _ and -"
            )
        if name in self._blocked:
            raise PluginError(f"plugin {name!r} ({source}) is not loaded: {self._blocked[name]}; mend or remove it")
        return source

    def _info(self, name: str, before: Callable[[str], None]) -> PluginInfo:
        source, *shadowed = map(str, self._sources[name])
        try:
            before(name)
            plugin = self.load(name)
        except PluginError as error:
            return PluginInfo(name=name, source=source, refused=str(error), shadows=shadowed)
        return PluginInfo(
            name=name,
            source=source,
            version=plugin.version,
            stages=list(plugin.stages),
            options=plugin.options_schema,
            needs=sorted(plugin.needs),
            shadows=shadowed,
        )

    def _log_shadowed(self) -> None:
        for name, (source, *shadowed) in self._sources.items():
            for other in shadowed:
                structlog.get_logger().info(
                    "of two plugins with one name one is used",
                    plugin=name,
                    used=str(source),
                    unused=str(other),
                )


@contextmanager
def blaming(stage: str, name: str) -> Iterator[None]:
    """Put stage and plugin before whatever is raised inside; a cancellation passes through.

    Raises:
        HookError: from the exception.
    """
    try:
        yield
    except (HookError, PluginError):
        raise
    except AteneaError as error:
        raise HookError(f"{stage} plugin {name!r}: {error}") from error
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise HookError(f"{stage} plugin {name!r} failed: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The kind of an exception and its text, on one line."""
    if isinstance(error, AteneaError):
        return str(error)
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a plugin's exception class can do anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _import_failure(error: BaseException, source: PluginSource) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"needs the Python package {package!r}, which is missing; install it where atenea is installed"
    if isinstance(error, SyntaxError):
        where = f"line {error.lineno}" if error.filename == str(source) else f"{error.filename}, line {error.lineno}"
        return f"is not valid Python: {where}: {error.msg}"
    if isinstance(error, OSError) and error.filename in {str(source), Path(str(source)).name}:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, SystemExit):
        return "calls sys.exit when it is imported; a plugin only defines hooks"
    return f"cannot be imported: {describe(error)}"


def _inspected(name: str, source: PluginSource, module: Any) -> Plugin:
    hooks = dict(_hooks(module))
    refusals = [sentence for hook, function in hooks.items() for sentence in _hook_mistakes(hook, function)]
    stages = tuple(stage for stage in STAGES if stage in hooks)
    if not stages and not refusals:
        refusals.append(f"it has no stage; define one of {', '.join(STAGES)} and put @hookimpl above it")
    if refusals:
        raise _Refused("; ".join(refusals))
    options = _options_model(module)
    return Plugin(
        name=name,
        source=source,
        module=module,
        stages=stages,
        has_check="check" in hooks,
        has_diagnose="diagnose" in hooks,
        options=options,
        options_schema=_schema(options),
        needs=_needs(module),
        version=source.version(module),
    )


def _title(name: str, source: PluginSource) -> str:
    return f"plugin {name!r} ({source})"


def _hooks(module: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Hook names and the functions that `@hookimpl` stands above."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    for attribute in dir(module):
        options = manager.parse_hookimpl_opts(module, attribute)
        if options is not None:
            yield options.get("specname") or attribute, getattr(module, attribute)


def _hook_mistakes(hook: str, function: Callable[..., Any]) -> Iterator[str]:
    valid = {name: getattr(hookspecs, name) for name in ("check", "diagnose", *STAGES)}
    if hook not in valid:
        near = difflib.get_close_matches(hook, valid, n=1)
        yield f"there is no hook {hook!r}; " + (f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(valid)}")
        return
    arguments = inspect.signature(valid[hook]).parameters
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in {parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            yield f"{hook}() takes {parameter} in a way that is never passed; take plain arguments only"
        elif name not in arguments:
            yield f"{hook}() has an argument {name!r} that is never passed; valid: {', '.join(arguments)}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        yield f"{hook}() must be a plain function that returns its result; neither async nor yield"


def _options_model(module: Any) -> type[PluginOptions]:
    options = getattr(module, "Options", PluginOptions)
    if not (isinstance(options, type) and issubclass(options, PluginOptions)):
        raise _Refused("its Options are no subclass of atenea.PluginOptions")
    return options


def _schema(options: type[PluginOptions]) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(json.dumps(options.model_json_schema(), default=str))
    except PydanticUserError as error:
        raise _Refused(f"its Options cannot be described in JSON: {describe(error)}") from error
    return schema


def _needs(module: Any) -> frozenset[str]:
    needs = getattr(module, "needs", {"cpu"})
    if not isinstance(needs, set | frozenset | list | tuple) or not needs or not PLUGIN_NEEDS.issuperset(needs):
        raise _Refused(f"its needs are {needs!r}; write a set of {', '.join(sorted(PLUGIN_NEEDS))}")
    return frozenset(needs)
