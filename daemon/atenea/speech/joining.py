"""Joins pieces of speech to one WAV file, with natural pauses and without clicks.

Servers begin and end a piece with as much silence as they like. Between two pieces this is cut down or filled up to
the pause that belongs there; before the first and after the last it stays. Each piece is faded in and out over a few
milliseconds, because a wave that begins in the middle clicks. One piece at a time is in memory.
"""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atenea.speech.sentences import Pause
from atenea.speech.sound import RATE, SILENT, Samples

PAUSE_SECONDS = {Pause.NONE: 0.08, Pause.SENTENCE: 0.4, Pause.PARAGRAPH: 0.8}
FADE = RATE * 5 // 1000
"""Samples over which a piece is faded in and out."""

_MARGIN = RATE * 30 // 1000
"""Samples beside the loud part that belong to the speech: breath, and the end of an s."""


class Span(NamedTuple):
    """When a piece sounds, in seconds from the start of the file."""

    start: float
    end: float


def join(
    load: Callable[[int], Samples],
    pauses: Sequence[Pause],
    target: Path,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> list[Span]:
    """Write the pieces into `target`, mono, 16 bit, `RATE`; when each of them sounds.

    Args:
        load: gives the samples of the piece with this number, from 0 on.
        pauses: what follows each piece; nothing is added after the last.
    """
    spans: list[Span] = []
    written = 0
    try:
        with wave.open(str(target), "wb") as wav:
            wav.setnchannels(1)
            wav.setsampwidth(2)
            wav.setframerate(RATE)
            for number in range(len(pauses)):
                last = number == len(pauses) - 1
                samples = faded(trimmed(load(number), start=number > 0, end=not last))
                wav.writeframesraw(samples.tobytes())
                spans.append(Span(written / RATE, (written + len(samples)) / RATE))
                silence = 0 if last else round(PAUSE_SECONDS[pauses[number]] * RATE)
                wav.writeframesraw(bytes(2 * silence))
                written += len(samples) + silence
                progress((number + 1) / len(pauses))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return spans


def trimmed(samples: Samples, *, start: bool, end: bool) -> Samples:
    """Without the silence at its start, at its end, or both; sound that is nothing but silence stays."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > SILENT)
    if not loud.size:
        return samples
    first = max(0, int(loud[0]) - _MARGIN) if start else 0
    stop = int(loud[-1]) + 1 + _MARGIN if end else len(samples)
    return samples[first:stop]


def faded(samples: Samples) -> Samples:
    """Faded in and out."""
    length = min(FADE, len(samples) // 2)
    ramp = np.arange(length) / max(1, length)
    result = samples.astype(np.float64)
    result[:length] *= ramp
    result[len(result) - length :] *= ramp[::-1]
    return np.rint(result).astype("<i2")
