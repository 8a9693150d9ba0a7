"""wav: turns speech in any format into what the render stage reads, 16 kHz, mono, 16 bit."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from atenea import Context, PluginOptions, hookimpl

needs = {"cpu"}


class Options(PluginOptions):
    """Options of the plugin.

    Attributes:
        max_seconds: longer speech is refused.
    """

    max_seconds: float = Field(4 * 3600.0, gt=0)


@hookimpl
def audio(speech: Path, ctx: Context) -> Path:
    """Decode the speech, mix its channels, resample it."""
    from atenea.media.audio import SAMPLE_RATE, write_wav  # noqa: PLC0415 - listing the plugins must not cost it

    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    target = ctx.workdir / "speech.wav"
    samples = write_wav(speech, target, max_seconds=ctx.options.max_seconds, progress=ctx.progress)
    ctx.report["seconds"] = samples / SAMPLE_RATE
    return target
