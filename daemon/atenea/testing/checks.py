"""What every plugin must pass, whatever it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from atenea.errors import AteneaError, Cancelled
from atenea.media.audio import SAMPLE_RATE, opened, wav_info, write_wav
from atenea.media.mux import check_video, picture_of
from atenea.mistakes import Invalid, validated
from atenea.plugin_manager import Plugin, PluginManager, describe
from atenea.testing.stages import TEXT, Bench, Recorder, StageError, StageResult, found
from atenea.timing import TimedText

_LONGEST_SECONDS = 3600.0
_SLACK_SECONDS = 0.1


def check_plugin(
    plugin: str | Path,
    *,
    text: str = TEXT,
    options: Mapping[str, Any] = MappingProxyType({}),
    avatar: Path | None = None,
    seconds: float = 1.0,
) -> None:
    """Check what the daemon asks of every plugin, by running each of its stages twice.

    It can be loaded: its file is safe, its hooks' arguments, its options and its needs are valid. The defaults of its
    options pass their own checks. `check` does not refuse the job, and `diagnose` returns findings. Each stage returns
    what the next ones can use: sound that can be decoded, with its timing in order; a WAV of 16 kHz; a video with the
    frames that it must have. A stage that reports progress stops when it is cancelled.

    Args:
        plugin: the path of its file, or its name if it is installed or comes with atenea.
        text: of the job.
        options: as they stand in a job file.
        avatar: of the job.
        seconds: how long the inputs of its stages are.

    Raises:
        AssertionError: with every mistake.
    """
    with TemporaryDirectory(prefix="atenea-test-") as place:
        name, plugins = found(plugin, Path(place))
        mistakes: list[str] = []
        with _noted(mistakes):
            loaded = plugins.load(name)
            mistakes += _wrong_options(loaded, options)
            if not mistakes:
                plugins.diagnose(name, options)
            for stage in loaded.stages if not mistakes else ():
                checks = _StageChecks(name, plugins, stage, Path(place), seconds)
                with _noted(mistakes):
                    mistakes += checks.run(text=text, options=options, avatar=avatar)
    if mistakes:
        raise AssertionError("\n".join([f"plugin {name!r} does not pass:", *(f"- {mistake}" for mistake in mistakes)]))


class _StageChecks:
    """The checks of one stage."""

    def __init__(self, name: str, plugins: PluginManager, stage: str, place: Path, seconds: float) -> None:
        self._name = name
        self._plugins = plugins
        self._stage = stage
        self._place = place
        self._seconds = seconds

    def run(self, **job: Any) -> list[str]:
        """What is wrong."""
        bench = self._bench("run", job)
        if refused := bench.mistakes():
            hint = "give check_plugin a text, options or an avatar that it takes"
            return [f"the test's job is refused, {hint}: {sentence}" for sentence in refused]
        result = bench.run(Recorder())
        return [*self._useless(bench, result), *self._unstoppable(len(result.progress), job)]

    def _bench(self, run: str, job: Mapping[str, Any]) -> Bench:
        """A new job, with a cache of its own: what was made before must not be found there."""
        place = self._place / f"{self._stage}-{run}"
        bench = Bench(self._name, self._plugins, self._stage, place / "test", place / "cache")
        bench.set_up(**job)
        bench.give({}, seconds=self._seconds)
        return bench

    def _useless(self, bench: Bench, result: StageResult) -> Iterator[str]:
        """What the next stages could not use."""
        if result.path is None:
            return
        try:
            if self._stage == "tts":
                samples = write_wav(result.path, self._place / "heard.wav", max_seconds=_LONGEST_SECONDS)
                yield from _wrong_timing(result.timing, samples / SAMPLE_RATE)
            elif self._stage == "render":
                check_video(result.path, wav_info(bench.artifacts["wav"]))
            elif self._stage == "post":
                with opened(result.path) as container:
                    picture_of(container, result.path)
        except AteneaError as error:
            yield f"{self._stage}() returned what cannot be used: {error}"

    def _unstoppable(self, calls: int, job: Mapping[str, Any]) -> Iterator[str]:
        """Whether the stage goes on when it is cancelled in its middle."""
        if not calls:
            return
        recorder = Recorder(cancel_at=calls // 2 + 1)
        try:
            self._bench("cancelled", job).run(recorder)
        except Cancelled:
            return
        except StageError as error:
            yield f"{self._stage}() makes a failure of being cancelled; let Cancelled pass: {error}"
            return
        if recorder.cancelled:
            yield (
                f"{self._stage}() went on when it was cancelled: something catches Cancelled, which ctx.progress raises"
            )


def _wrong_options(plugin: Plugin, given: Mapping[str, Any]) -> Iterator[str]:
    """Defaults are not validated when they are used, so that a wrong one is only seen by whoever uses it."""
    for name in sorted(plugin.options.configuration_only - plugin.options.model_fields.keys()):
        yield f"Options.configuration_only names {name!r}, which is no option"
    try:
        options = validated(plugin.options, dict(given), "Options")
        validated(plugin.options, dict(options), "Options")
        options.model_dump(mode="json")
    except Invalid as invalid:
        yield from invalid.mistakes
    except Exception as error:  # noqa: BLE001 - whatever a plugin's own validators raise
        yield f"its Options cannot be checked: {describe(error)}"


def _wrong_timing(timing: tuple[TimedText, ...], seconds: float) -> Iterator[str]:
    for piece in timing:
        if not 0 <= piece.start <= piece.end <= seconds + _SLACK_SECONDS:
            yield (
                f"ctx.save_timing has {piece.text!r} from {piece.start:g} to {piece.end:g} s,"
                f" in speech of {seconds:g} s"
            )
    for one, other in pairwise(timing):
        if other.start < one.start:
            yield f"ctx.save_timing has {other.text!r} after {one.text!r}, but it begins before it"


@contextmanager
def _noted(mistakes: list[str]) -> Iterator[None]:
    try:
        yield
    except (AteneaError, StageError) as error:
        mistakes.append(str(error))
