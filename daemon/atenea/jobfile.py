"""What people write: the keys of a job file or a preset, and how they become the settings of each stage.

Pure functions over bytes and tables; `intake` does the reading and copying around them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import tomli
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from atenea.errors import MistakesError
from atenea.job import StageSettings
from atenea.mistakes import Invalid, validated
from atenea.naming import printable, shortened

FILE_KEYS = ("text_file", "audio_file", "avatar")
_SOURCE_KEYS = ("text", "text_file", "audio_file")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_MOST_VALUES = 10_000
"""Keys and values in a job file; each wrong one is a mistake to be explained."""

_MOST_POST_PLUGINS = 64

_KEY_PART = rb"""(?: [A-Za-z0-9_-]++ | "[^"\n]*+" | '[^'\n]*+' ) [ \t]*+"""
_DEEP_KEY = re.compile(
    rb"(?: ^ | [\[{,] ) [ \t]*+ " + _KEY_PART + rb"(?: \. [ \t]*+ " + _KEY_PART + rb"){16,}+ [=\]]",
    re.MULTILINE | re.VERBOSE,
)
"""A key of more than 16 parts, for which the parser would take as many steps as their square, on every line."""

PROVENANCE = "provenance"
"""The post plugin that signs the finished video, listed or not; see `Post.marked`."""


def _checked_plugins(plugins: tuple[str, ...]) -> tuple[str, ...]:
    if len(plugins) > _MOST_POST_PLUGINS:
        raise ValueError(f"names {len(plugins):,} plugins; {_MOST_POST_PLUGINS} are the most")
    if PROVENANCE in plugins[:-1]:
        raise ValueError(f"{PROVENANCE!r} must be the last one, because a later plugin would break its signature")
    return plugins


PostPlugins = Annotated[tuple[str, ...], AfterValidator(_checked_plugins)]
"""Names of post plugins in their order."""


class StageKeys(BaseModel):
    """A stage's table in a job file: the plugin, and beside it that plugin's options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    plugin: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The other keys of the table."""
        return dict(self.model_extra or {})


class PostKeys(BaseModel):
    """The table of the post stages in a job file: which, in order, and a table of options for each."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    plugins: PostPlugins | None = None

    def options(self, plugin: str) -> dict[str, Any]:
        """The options of one plugin."""
        return dict((self.__pydantic_extra__ or {}).get(plugin, {}))


class JobKeys(BaseModel):
    """Everything that may stand in a job file or a preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = None
    """What to speak."""
    text_file: str | None = None
    """A UTF-8 file with what to speak."""
    audio_file: str | None = None
    """Speech that is there already; there is no tts stage then."""
    avatar: str | None = None
    """The picture to animate: PNG, JPEG or WebP."""
    priority: int | None = Field(None, ge=-1_000_000, le=1_000_000)
    """Higher ones first, then the oldest; 0 if it is not set."""
    tts: StageKeys = StageKeys()
    """`plugin`: who speaks, instead of the configured one. All other keys are that plugin's options."""
    audio: StageKeys = StageKeys()
    """The same for who makes the 16 kHz WAV."""
    render: StageKeys = StageKeys()
    """The same for who makes the picture speak."""
    post: PostKeys = PostKeys()
    """`plugins`: other post plugins than the configured ones. A table under a plugin's name: its options."""

    def stage(self, name: str) -> StageKeys:
        """The table of tts, audio or render."""
        table: StageKeys = getattr(self, name)
        return table

    @property
    def sources(self) -> list[str]:
        """The keys that say what is to be heard; one at most makes sense."""
        return [key for key in _SOURCE_KEYS if getattr(self, key) is not None]

    @property
    def has_source(self) -> bool:
        """Whether the keys say what is to be heard."""
        return bool(self.sources)


class StageDefaults(BaseModel):
    """A stage's table in the configuration: the plugin, and a table of options under each plugin's name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    plugin: str

    def options(self, plugin: str) -> dict[str, Any]:
        """The options of one plugin."""
        return dict((self.__pydantic_extra__ or {}).get(plugin, {}))


def decode_text(data: bytes, name: str) -> str:
    """The text of a UTF-8 file, its line ends and control characters made harmless.

    Raises:
        MistakesError: the bytes are no UTF-8 text, or there is nothing to speak in it.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise MistakesError(name, ["is UTF-16; save it as UTF-8"])
    if b"\x00" in data:
        raise MistakesError(name, ["holds NUL bytes, so it is no text; save it as UTF-8 text"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MistakesError(name, [_not_utf8(error)]) from None
    return spoken_text(text, name)


def _not_utf8(error: UnicodeDecodeError) -> str:
    # Its object is the data without the byte order mark, which its position does not count either.
    if error.reason == "unexpected end of data":
        return "ends in the middle of a character: the upload was cut off, so send it again (or it is not UTF-8)"
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8"


def spoken_text(text: str, name: str) -> str:
    """The text with plain line ends and without control characters.

    Raises:
        MistakesError: nothing is left to speak.
    """
    text = _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text:
        raise MistakesError(name, ["has no text in it; write what is to be spoken"])
    return text


def parse_job_toml(data: bytes, name: str) -> JobKeys:
    """The keys of a TOML job file.

    Raises:
        MistakesError: with all mistakes at once.
    """
    keys, mistakes = read_job_toml(data, name)
    if mistakes:
        raise MistakesError(name, mistakes)
    return keys


def read_job_toml(data: bytes, name: str) -> tuple[JobKeys, list[str]]:
    """The keys of a TOML job file without those that are wrong, and a sentence about each of these.

    Raises:
        MistakesError: it is no TOML.
    """
    table = parse_toml(data, name)
    if _has_too_many_values(table):
        raise MistakesError(name, [f"holds more than {_MOST_VALUES:,} keys and values; leave out what is not needed"])
    try:
        keys, mistakes = validated(JobKeys, table), []
    except Invalid as invalid:
        mistakes = invalid.mistakes
        keys = validated(JobKeys, _without(table, invalid.paths))
    given = [key for key in _SOURCE_KEYS if key in table]
    if len(given) > 1:
        mistakes.append(only_one(given))
    return keys, mistakes


def _without(table: Mapping[str, Any], paths: Collection[tuple[int | str, ...]]) -> dict[str, Any]:
    """The table without the keys at these paths; without any if the empty path, which stands for all, is one."""
    if () in paths:
        return {}
    beneath: dict[int | str, list[tuple[int | str, ...]]] = {}
    for path in paths:
        beneath.setdefault(path[0], []).append(path[1:])
    left = {}
    for key, value in table.items():
        deeper = beneath.get(key)
        if not deeper:
            left[key] = value
        elif isinstance(value, Mapping) and all(deeper):
            left[key] = _without(value, deeper)
    return left


def _has_too_many_values(table: Mapping[str, Any]) -> bool:
    """Whether there are more keys and values, at all depths, than anybody would write."""
    count, waiting = 0, [table]
    while waiting and count <= _MOST_VALUES:
        value: Any = waiting.pop()
        if isinstance(value, Mapping | list):
            count += len(value)
            waiting += value.values() if isinstance(value, Mapping) else value
    return count > _MOST_VALUES


def only_one(sources: Sequence[str]) -> str:
    """The sentence about more than one source."""
    return f"{' and '.join(sources)}: only one of them can be spoken; leave one"


def parse_toml(data: bytes, name: str) -> dict[str, Any]:
    """A TOML file's tables.

    Raises:
        MistakesError: naming the line and column.
    """
    if _DEEP_KEY.search(data):
        raise MistakesError(name, ["is nested too deeply"])
    try:
        return tomli.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MistakesError(name, [_not_utf8(error)]) from None
    except tomli.TOMLDecodeError as error:
        what, at, where = str(error).rpartition(" (at ")
        raise MistakesError(name, [f"is not valid TOML: {shortened(what)}{at}{where}"]) from None
    except RecursionError:
        raise MistakesError(name, ["is nested too deeply"]) from None
    except ValueError:  # which Python raises for a number of thousands of digits
        raise MistakesError(name, ["holds a number with too many digits"]) from None


def stage_settings(stage: str, layers: Sequence[JobKeys], defaults: StageDefaults) -> StageSettings:
    """Which plugin serves tts, audio or render, and with which options.

    `layers` go from the strongest (the job) to the weakest (its preset). Options that a weaker layer or the
    configuration gives to another plugin than the chosen one do not count.
    """
    chosen = [layer.stage(stage).plugin for layer in layers] + [defaults.plugin]
    plugin = next(name for name in chosen if name is not None)
    options = defaults.options(plugin)
    for position in reversed(range(len(layers))):
        meant = next(name for name in chosen[position:] if name is not None)
        if meant == plugin:
            options |= layers[position].stage(stage).options
    return StageSettings(plugin=plugin, options=options)


def post_settings(
    layers: Sequence[JobKeys],
    plugins: Sequence[str],
    tables: Mapping[str, Mapping[str, Any]],
    *,
    marked: bool = False,
) -> tuple[StageSettings, ...]:
    """The post stages in their order; `plugins` and `tables` are the configuration's.

    A video that is to be `marked` goes through `provenance` at the end, whatever is listed.
    """
    chosen = next((layer.post.plugins for layer in layers if layer.post.plugins is not None), tuple(plugins))
    if marked and PROVENANCE not in chosen:
        chosen = (*chosen, PROVENANCE)
    return tuple(StageSettings(plugin=name, options=_post_options(name, layers, tables)) for name in chosen)


def _post_options(name: str, layers: Sequence[JobKeys], tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    options = dict(tables.get(name, {}))
    for layer in reversed(layers):
        options |= layer.post.options(name)
    return options


def unused_post_tables(keys: JobKeys, stages: Sequence[StageSettings]) -> Iterator[str]:
    """A sentence for each table of options whose plugin is not among the post stages."""
    used = {stage.plugin for stage in stages}
    for name in keys.post.model_extra or {}:
        if name not in used:
            shown = shortened(printable(name))
            yield f"post.{shown}: is no plugin of this job; list it in post.plugins, or remove the table"
