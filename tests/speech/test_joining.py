"""Joining pieces to one WAV file."""

from __future__ import annotations

import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atenea.speech.joining import FADE, PAUSE_SECONDS, faded, join, trimmed
from atenea.speech.sentences import Pause

RATE = 24_000


def loud(length):
    return np.full(length, 8000, "<i2")


def joined(pieces, pauses, path):
    spans = join(lambda number: pieces[number], pauses, path)
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(-1), "<i2"), spans


def test_pauses_are_as_long_as_they_should_be_to_the_sample(tmp_path):
    pieces = [loud(RATE), loud(RATE // 2), loud(RATE), loud(RATE)]
    pauses = [Pause.SENTENCE, Pause.PARAGRAPH, Pause.NONE, Pause.PARAGRAPH]
    samples, spans = joined(pieces, pauses, tmp_path / "a.wav")
    gaps = [np.zeros(round(PAUSE_SECONDS[pause] * RATE), "<i2") for pause in pauses]
    parts = [faded(pieces[0]), gaps[0], faded(pieces[1]), gaps[1], faded(pieces[2]), gaps[2], faded(pieces[3])]
    assert np.array_equal(samples, np.concatenate(parts))
    assert [round(span.start * RATE) for span in spans] == [0, 33_600, 64_800, 90_720]
    assert [round(span.end * RATE) for span in spans] == [24_000, 45_600, 88_800, 114_720]


def test_silence_of_the_server_between_pieces_is_cut_and_around_all_kept(tmp_path):
    silence = np.zeros(RATE, "<i2")
    piece = np.concatenate([silence, loud(RATE), silence])
    samples, _ = joined([piece, piece], [Pause.SENTENCE, Pause.PARAGRAPH], tmp_path / "a.wav")
    margin = 720
    gap = round(PAUSE_SECONDS[Pause.SENTENCE] * RATE)
    assert len(samples) == 2 * len(piece) - 2 * RATE + 2 * margin + gap
    assert not samples[:RATE].any()
    assert not samples[-RATE:].any()


@given(st.lists(st.integers(-32768, 32767), max_size=2000), st.booleans(), st.booleans())
def test_nothing_loud_is_cut(values, start, end):
    samples = np.array(values, "<i2")
    kept = trimmed(samples, start=start, end=end)
    assert np.array_equal(kept[np.abs(kept.astype(int)) > 100], samples[np.abs(samples.astype(int)) > 100])
    assert len(faded(kept)) == len(kept)


def test_no_clicks():
    """Nothing jumps at the edges, and what is between them is untouched."""
    piece = faded(loud(RATE))
    steps = np.abs(np.diff(np.concatenate([[0], piece.astype(int), [0]])))
    assert steps.max() <= 8000 / FADE + 1
    assert np.array_equal(piece[FADE:-FADE], loud(RATE)[FADE:-FADE])


def test_a_piece_that_cannot_be_had_leaves_no_file(tmp_path):
    def load(number):
        if number:
            raise OSError("gone")
        return loud(100)

    with pytest.raises(OSError, match="gone"):
        join(load, [Pause.SENTENCE, Pause.PARAGRAPH], tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []


def test_one_piece_at_a_time_and_progress(tmp_path):
    told = []
    join(lambda number: loud(100), [Pause.NONE] * 4, tmp_path / "a.wav", told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]
