"""When each single word is spoken, guessed from the sound where a tts plugin timed no more than sentences."""

from __future__ import annotations

import re
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atenea.timing import TimedText

_HOP = 160
"""Samples per step of the loudness curve: 10 ms at 16 kHz."""

_STEPS_AT_ONCE = 1000

_GATE = 0.06
"""Fraction of the loudest steps' level above which a step counts as speech."""

_PAUSE = 30
"""Steps of silence in a row that are a pause between words, and no sound of a letter."""

_RATE_SPREAD, _ANY_SPREAD = 0.04, 0.01
"""How far guessed times are off, as a variance in square seconds: for each second since the last pause, and always."""

_NO_MARK, _CLAUSE_MARK, _UNHEARD = 4.0, 0.7, 2.0
"""What speaks against a pause after a word without punctuation, with a comma, and against a sentence that ends without
a pause, as negative logarithms of likelihoods."""

_NEAREST = 400
"""Borders between words that are considered for a pause."""

_PER_WORD, _PER_MARK = 1.5, 0.3
"""What a word takes beside its letters, in letters, and what a lone dash takes: short words are spoken slower than
their length says."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han."""

_WORD = re.compile(rf"[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")
_STARTS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_SENTENCE_MARK = re.compile(r"[.!?\u2026\u061f\u06d4\u0964\u0965\u3002\uff01\uff1f\uff61][^\w\s]*\Z")
_MARK = re.compile(r"[^\w\s]\Z")


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Where words begin and end, with the punctuation that touches them; in scripts without spaces, characters."""
    return (match.span() for match in _WORD.finditer(text))


def words(text: str) -> list[str]:
    """The words of a text, as `word_spans` finds them."""
    return [text[start:end] for start, end in word_spans(text)]


def unspaced(word: str) -> bool:
    """Whether a word follows the one before it without a space."""
    return _STARTS_UNSPACED.match(word) is not None


def spread_words(pieces: Sequence[TimedText], wav: Path) -> list[TimedText]:
    """Split pieces of several words into single words, spread over the moments in which there is sound.

    Pieces of a single word pass through. Inside a piece each word gets time by its length, and silence gets none: a
    pause lies between two words, those with punctuation between them if the lengths allow it.

    Args:
        pieces: what is spoken when, in order; one piece with everything if nothing is known.
        wav: the speech, 16 kHz, mono, 16 bit.
    """
    spread: list[TimedText] = []
    with wave.open(str(wav), "rb") as sound:
        for piece in pieces:
            inside = words(piece.text)
            if len(inside) > 1:
                spread += _spread(inside, piece, _active_time(sound, piece))
            elif inside:
                spread.append(piece)
    return spread


def _spread(inside: list[str], piece: TimedText, active: NDArray[np.float64]) -> Iterator[TimedText]:
    """`active` holds the seconds of sound before each step, and in all."""
    weights = np.cumsum([0.0, *map(_weight, inside)])
    shares = _with_pauses(weights / weights[-1] * active[-1], inside, _pauses(active, len(inside) - 1))
    # A word starts after the silence at its border, and the one before it ends before that silence.
    starts = _when(active, shares[:-1], side="right")
    ends = _when(active, shares[1:], side="left")
    step = (piece.end - piece.start) / (len(active) - 1)
    for word, start, end in zip(inside, starts.tolist(), ends.tolist(), strict=True):
        yield TimedText(word, piece.start + start * step, piece.start + max(start, end) * step)


def _pauses(active: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """How much sound there is before each pause; of the longest ones, in order."""
    still = np.concatenate([[False], np.diff(active) == 0, [False]])
    starts, ends = np.flatnonzero(np.diff(still.astype(np.int8))).reshape(-1, 2).T
    inside = (ends - starts >= _PAUSE) & (active[starts] > 0) & (active[starts] < active[-1])
    starts, ends = starts[inside], ends[inside]
    longest = np.sort(np.argsort(starts - ends, kind="stable")[:most])
    return np.asarray(active[starts[longest]], np.float64)


def _with_pauses(shares: NDArray[np.float64], inside: list[str], pauses: NDArray[np.float64]) -> NDArray[np.float64]:
    """The borders of the words, in steps of sound, with a border at every pause.

    The likeliest pairs of pauses and borders, in order, by the Viterbi algorithm: words last about as long as their
    lengths say, and people pause at punctuation.
    """
    if not pauses.size:
        return shares
    penalties = np.array([0.0, *map(_penalty, inside)])
    unheard = np.cumsum(np.where(penalties == 0.0, _UNHEARD, 0.0))
    before, costs = np.array([0]), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for pause, heard in zip(pauses, np.diff(pauses, prepend=0.0), strict=True):
        borders = _nearest(shares[1:-1], pause) + 1
        passed = unheard[borders - 1][None] - unheard[before][:, None]
        paths = costs[:, None] + passed + _unlikely(shares[borders][None] - shares[before][:, None], heard)
        paths[borders[None] <= before[:, None]] = np.inf
        steps.append((borders, paths.argmin(axis=0)))
        before, costs = borders, paths.min(axis=0) + penalties[borders]
    costs = costs + _unlikely(shares[-1] - shares[before], shares[-1] - pauses[-1])
    if not np.isfinite(costs).any():
        return shares
    chosen, at = [0], int(costs.argmin())
    for borders, came_from in reversed(steps):
        chosen.insert(1, int(borders[at]))
        at = int(came_from[at])
    fixed = np.interp(shares, shares[[*chosen, -1]], [0.0, *pauses.tolist(), shares[-1]])
    return np.asarray(fixed, np.float64)


def _unlikely(guessed: NDArray[np.float64], heard: float) -> NDArray[np.float64]:
    """What speaks against so many steps of sound between two pauses, where another number was guessed."""
    second = 16_000 / _HOP
    variance = _RATE_SPREAD * np.abs(guessed) / second + _ANY_SPREAD
    return np.asarray(np.square((guessed - heard) / second) / (2 * variance), np.float64)


def _nearest(shares: NDArray[np.float64], pause: float) -> NDArray[np.int64]:
    """The indices of the shares nearest to a pause."""
    middle = int(np.searchsorted(shares, pause))
    first = max(0, min(middle - _NEAREST // 2, len(shares) - _NEAREST))
    return np.arange(first, min(first + _NEAREST, len(shares)))


def _penalty(word: str) -> float:
    end = word[-8:]
    if _SENTENCE_MARK.search(end):
        return 0.0
    return _CLAUSE_MARK if _MARK.search(end) else _NO_MARK


def _weight(word: str) -> float:
    letters = sum(character.isalnum() for character in word)
    return letters + _PER_WORD if letters else _PER_MARK


def _when(active: NDArray[np.float64], seconds: NDArray[np.float64], side: str) -> NDArray[np.float64]:
    """Steps, with fractions, until that much sound has passed."""
    if side == "right":
        index = np.searchsorted(active, seconds + 1e-9, side="right") - 1
    else:
        index = np.searchsorted(active, seconds - 1e-9, side="left") - 1
    index = np.clip(index, 0, len(active) - 2)
    gain = active[index + 1] - active[index]
    inside = np.divide(seconds - active[index], gain, out=np.zeros_like(seconds), where=gain > 0)
    return np.asarray(index + np.clip(inside, 0.0, 1.0), np.float64)


def _active_time(sound: wave.Wave_read, piece: TimedText) -> NDArray[np.float64]:
    levels = _levels(sound, piece)
    loud = np.percentile(levels, 95) if levels.size else 0.0
    active = (levels > loud * _GATE).astype(np.float64) if loud > 0 else np.ones(max(1, levels.size))
    return np.concatenate([[0.0], np.cumsum(active)])


def _levels(sound: wave.Wave_read, piece: TimedText) -> NDArray[np.float32]:
    """The level of each 10 ms of the piece."""
    rate, length = sound.getframerate(), sound.getnframes()
    start = min(max(0, round(piece.start * rate)), length)
    steps = (min(round(piece.end * rate), length) - start) // _HOP
    sound.setpos(start)
    curve = [np.zeros(0, np.float32)]
    while steps > 0:
        count = min(steps, _STEPS_AT_ONCE)
        samples = np.frombuffer(sound.readframes(count * _HOP), "<i2").astype(np.float32)
        curve.append(np.sqrt(np.square(samples.reshape(-1, _HOP)).mean(axis=1)))
        steps -= count
    return np.concatenate(curve)
