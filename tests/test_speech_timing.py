"""Words spread over the moments in which there is sound."""

import wave
from itertools import pairwise

import numpy as np
import pytest

from atenea import TimedText
from atenea.speech_timing import spread_words, unspaced, words


@pytest.fixture
def speech(tmp_path):
    """Half a second of silence, a second of sound, two of silence, a second of sound, half a second of silence."""
    noise = np.random.default_rng(0).integers(-9000, 9000, 16000)
    parts = [np.zeros(8000), noise, np.zeros(32000), noise, np.zeros(8000)]
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())
    return tmp_path / "s.wav"


def test_silence_gets_no_words(speech):
    spread = spread_words([TimedText("four word long text", 0, 5)], speech)
    assert [word.text for word in spread] == ["four", "word", "long", "text"]
    assert [word.start for word in spread] == pytest.approx([0.5, 1.0, 3.5, 4.0], abs=0.02)
    assert [word.end for word in spread] == pytest.approx([1.0, 1.5, 4.0, 4.5], abs=0.02)


def test_long_words_take_longer(speech):
    short, long = spread_words([TimedText("a extraordinarily", 0.5, 1.5)], speech)
    assert long.end - long.start > 3 * (short.end - short.start)


def test_single_words_pass_through(speech):
    pieces = [TimedText("one", 0.1, 0.2), TimedText("two", 4.9, 5.0)]
    assert spread_words(pieces, speech) == pieces


@pytest.mark.parametrize("span", [(0, 0.5), (1.5, 3.5), (2, 2), (4.9, 60)])
def test_piece_without_sound_keeps_its_words_in_order(speech, span):
    spread = spread_words([TimedText("just some \u2013 words", *span)], speech)
    assert [word.text for word in spread] == ["just", "some", "\u2013", "words"]
    assert span[0] <= spread[0].start and spread[-1].end <= span[1] + 1e-9
    assert all(before.start <= before.end <= after.start + 1e-9 for before, after in pairwise(spread))


def test_nothing_to_say(speech):
    assert spread_words([], speech) == []
    assert spread_words([TimedText(" \n", 0, 5)], speech) == []


def test_scripts_without_spaces():
    text = "中文字符。 Hello, world 你好"
    assert words(text) == ["中", "文", "字", "符。", "Hello,", "world", "你", "好"]
    assert [unspaced(word) for word in ("文", "world")] == [True, False]
