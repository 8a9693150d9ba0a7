"""Brings times in the speech to those in the 16 kHz WAV, where an audio stage has cut or stretched it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atenea.media.audio import SAMPLE_RATE, SoundReader, keeps_time, wav_info
from atenea.timing import TimedText

_STEP = 160
"""Samples of a loudness curve's steps: 10 ms."""

_SAME = 0.5
"""The correlation of two loudness curves from which on they are of the same sound."""

Levels = NDArray[np.float64]


def in_wav(pieces: Sequence[TimedText], speech: Path, wav: Path) -> list[TimedText]:
    """The pieces with their times in `wav`, which an audio stage has made of `speech`.

    Silence or sound that was added or cut away at the start moves them, to 10 ms, and none before 0. If the sound
    cannot be found again, the stage has changed its speed, and all times are stretched alike.

    Raises:
        PermanentError: one of the files cannot be read.
    """
    if keeps_time(speech, wav_info(wav)):
        return list(pieces)
    before, after = _levels(speech), _levels(wav)
    shift, likeness = _shift(before, after)
    factor, later = 1.0, shift * _STEP / SAMPLE_RATE
    if likeness < _SAME:
        factor, later = len(after) / len(before), 0.0
    return [
        TimedText(text, max(0.0, start * factor + later), max(0.0, end * factor + later)) for text, start, end in pieces
    ]


def _shift(before: Levels, after: Levels) -> tuple[int, float]:
    """By how many steps `after` is later, and how alike the two are then, from -1 to 1."""
    length = len(before) + len(after)
    first, second = (np.fft.rfft(levels - levels.mean(), length) for levels in (before, after))
    products = np.fft.irfft(second * first.conj(), length)
    shift = int(products.argmax())
    shift = shift if shift < len(after) else shift - length
    start, end = max(0, -shift), min(len(before), len(after) - shift)
    return shift, _likeness(before[start:end], after[start + shift : end + shift])


def _likeness(one: Levels, other: Levels) -> float:
    if len(one) < 2 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _levels(sound: Path) -> Levels:
    """The level of each step."""
    return np.array(list(_steps(SoundReader(sound, SAMPLE_RATE, "mono"))) or [0.0], np.float64)


def _steps(pieces: Iterable[NDArray[np.float32]]) -> Iterable[float]:
    held = np.zeros(0, np.float32)
    for piece in pieces:
        held = np.concatenate([held, piece[0]])
        whole = len(held) // _STEP * _STEP
        yield from np.sqrt(np.square(held[:whole].reshape(-1, _STEP)).mean(axis=1)).tolist()
        held = held[whole:]
