"""subtitles: what is said, as NAME.srt and NAME.vtt beside the video and as a text track in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from atenea import Context, Job, PluginOptions, TimedText, hookimpl
from atenea.subtitles.languages import three_letters

if TYPE_CHECKING:
    from atenea.subtitles.layout import Cue

needs = {"cpu"}


class Options(PluginOptions):
    """Options of the plugin.

    Attributes:
        formats: which of the two files to publish, and whether to add the track.
        characters_per_line: at most; a Chinese or Japanese one counts as two.
        lines: at most, of what is shown at once.
        language: of the text, such as "de" or "pt-BR", for the track; without it, that of a voice such as "de".
    """

    formats: tuple[Literal["srt", "vtt", "track"], ...] = Field(("srt", "vtt", "track"), min_length=1)
    characters_per_line: int = Field(42, ge=10, le=100)
    lines: int = Field(2, ge=1, le=3)
    language: str | None = None

    @field_validator("language")
    @classmethod
    def _known(cls, language: str | None) -> str | None:
        if language is not None and three_letters(language) is None:
            raise ValueError("should be the code of a language, such as 'de' or 'deu'")
        return language


@hookimpl
def post(job: Job, video: Path, ctx: Context) -> Path | None:
    """Attach the files, and return the video with the track."""
    from atenea.subtitles.files import subrip, webvtt  # noqa: PLC0415 - listing the plugins must not cost it
    from atenea.subtitles.track import add_text_track  # noqa: PLC0415

    options = _options(ctx)
    if job.text is None:
        ctx.log.info("no subtitles: the job brings its own speech, and no text says what is spoken in it")
        return None
    cues = _cues(job.text, ctx)
    ctx.report["cues"] = len(cues)
    if not cues:
        ctx.log.warning("no subtitles: no word of the text is heard in the speech")
        return None
    for kind, write in (("srt", subrip), ("vtt", webvtt)):
        if kind in options.formats:
            file = ctx.workdir / f"subtitles.{kind}"
            file.write_text(write(cues), encoding="utf-8", newline="\n")
            ctx.attach(file, f".{kind}")
    if "track" not in options.formats:
        return None
    language = _language(ctx)
    ctx.report["language"] = language
    target = ctx.workdir / "video.mp4"
    add_text_track(video, cues, target, language=language, progress=ctx.progress)
    return target


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _cues(text: str, ctx: Context) -> list[Cue]:
    from atenea.media.audio import SAMPLE_RATE, wav_info  # noqa: PLC0415
    from atenea.speech_clock import in_wav  # noqa: PLC0415
    from atenea.speech_timing import spread_words  # noqa: PLC0415
    from atenea.subtitles.atoms import atoms  # noqa: PLC0415
    from atenea.subtitles.layout import Shape, cues  # noqa: PLC0415

    assert ctx.wav and ctx.speech  # noqa: S101 - a job with a text has both by now
    options = _options(ctx)
    seconds = wav_info(ctx.wav) / SAMPLE_RATE
    # A voice that does not say when it speaks what is heard somewhere between the start and the end.
    pieces = in_wav(ctx.timing, ctx.speech, ctx.wav) if ctx.timing else [TimedText(text, 0.0, seconds)]
    words = spread_words(pieces, ctx.wav)
    columns = options.characters_per_line
    return cues(atoms(words, text, columns), Shape(columns, options.lines), seconds)


def _language(ctx: Context) -> str | None:
    """The language that was asked for, or that of the voice, where voices are called by languages."""
    voices = (stage["options"].get("voice") for stage in ctx.stages if stage["stage"] == "tts")
    return three_letters(_options(ctx).language or str(next(voices, "")))
