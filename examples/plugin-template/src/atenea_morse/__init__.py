"""morse: a voice that speaks in Morse code."""

from __future__ import annotations

import math
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from atenea import Context, Job, PluginOptions, TimedText, hookimpl

needs = {"cpu"}

RATE = 16_000
_SIGNS = """
    A.- B-... C-.-. D-.. E. F..-. G--. H.... I.. J.--- K-.- L.-.. M-- N-. O--- P.--. Q--.- R.-. S... T- U..- V...-
    W.-- X-..- Y-.-- Z--.. 0----- 1.---- 2..--- 3...-- 4....- 5..... 6-.... 7--... 8---.. 9----. ?..--.. !-.-.-- '.----.
"""
_CODE = {sign[0]: sign[1:] for sign in _SIGNS.split()}


class Options(PluginOptions):
    """Options of the plugin."""

    words_per_minute: float = Field(20, ge=5, le=60, description="a word is as long as PARIS")
    pitch: int = Field(600, ge=200, le=2000, description="of the tone, in hertz")


@hookimpl
def check(job: Job) -> str | None:
    """A text without a letter that Morse knows is refused when it comes in."""
    if job.text is not None and not signals(job.text):
        return "there is nothing in the text that Morse code has a sign for"
    return None


@hookimpl
def tts(job: Job, ctx: Context) -> Path:
    """Tap the text, word by word."""
    options = ctx.options
    assert isinstance(options, Options)  # noqa: S101 - atenea validated them
    dot = 1.2 / options.words_per_minute
    on = [_tone(options.pitch, count * dot) for count in (1, 3)]
    off = [_silence(count * dot) for count in (1, 3, 7)]
    words = signals(job.text or "")
    target = ctx.workdir / "morse.wav"
    timing = []
    with wave.open(str(target), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        for number, (word, letters) in enumerate(words):
            ctx.progress(number / len(words), word)
            if number:
                sound.writeframesraw(off[2])
            begin = sound.tell() / RATE
            for place, letter in enumerate(letters):
                sound.writeframesraw(off[1] * bool(place) + off[0].join(on[sign == "-"] for sign in letter))
            timing.append(TimedText(word, begin, sound.tell() / RATE))
    ctx.save_timing(timing)
    ctx.report["signs"] = sum(len(letter) for _, letters in words for letter in letters)
    return target


def signals(text: str) -> list[tuple[str, list[str]]]:
    """Each word of the text that can be tapped, with the dots and dashes of its letters."""
    return [(word, letters) for word in text.split() if (letters := list(_letters(word)))]


def _letters(word: str) -> Iterator[str]:
    return (_CODE[letter] for letter in word.upper() if letter in _CODE)


def _tone(pitch: int, seconds: float) -> bytes:
    """Faded in and out over 5 ms, so that it does not click."""
    count = round(seconds * RATE)
    fade = RATE // 200
    samples = (
        round(16_000 * min(1.0, place / fade, (count - place) / fade) * math.sin(2 * math.pi * pitch * place / RATE))
        for place in range(count)
    )
    return struct.pack(f"<{count}h", *samples)


def _silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE))
