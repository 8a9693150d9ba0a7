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


def sound_of(parts, path):
    """Seconds of noise, and of silence where they are negative."""
    noise = np.random.default_rng(0).integers(-9000, 9000, 16000 * 60)
    pieces = [noise[: round(part * 16000)] if part > 0 else np.zeros(round(-part * 16000)) for part in parts]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.concatenate(pieces).astype("<i2").tobytes())
    return path


def test_pauses_lie_at_punctuation_and_in_no_word(tmp_path):
    wav = sound_of([1.6, -0.5, 1.0, -0.4, 2.4], tmp_path / "s.wav")
    text = "I think so, yes indeed, and we shall see tomorrow."
    spread = spread_words([TimedText(text, 0, 5.9)], wav)
    found = {word.text: (word.start, word.end) for word in spread}
    assert found["so,"][1] == pytest.approx(1.6, abs=0.02)
    assert found["yes"][0] == pytest.approx(2.1, abs=0.02)
    assert found["indeed,"][1] == pytest.approx(3.1, abs=0.02)
    assert found["and"][0] == pytest.approx(3.5, abs=0.02)


def test_no_word_in_a_pause_whatever_the_punctuation_says(tmp_path):
    wav = sound_of([0.5, -0.4, 0.7, -0.35, 0.2, -1.0, 1.3, -0.5, 0.4], tmp_path / "s.wav")
    spread = spread_words([TimedText("seven words that have no marks inside", 0, 5.35)], wav)
    assert all(before.start < before.end <= after.start + 1e-9 for before, after in pairwise(spread))
    for start, end in ((0.5, 0.9), (1.6, 1.95), (2.15, 3.15), (4.45, 4.95)):
        assert not [word for word in spread if word.start < end - 0.02 and word.end > start + 0.02]


def test_more_pauses_than_borders_between_words(tmp_path):
    wav = sound_of([0.5, -0.4, 0.5, -0.9, 0.5, -0.4, 0.5], tmp_path / "s.wav")
    before, after = spread_words([TimedText("two words", 0, 3.7)], wav)
    assert (before.end, after.start) == pytest.approx((1.4, 2.3), abs=0.02)


def test_a_long_piece_finds_its_sentences(tmp_path):
    """Without the pauses the guesses would be seconds off: each other sentence is spoken twice as fast."""
    sentences = [f"This is sentence {name}, which says nothing else." for name in "ABCDEFGHIJKLMNOPQRST"]
    parts, starts, now = [], [], 0.0
    for number in range(len(sentences)):
        starts.append(now)
        sound = 2.0 if number % 2 else 3.5
        parts += [sound, -0.5]
        now += sound + 0.5
    wav = sound_of(parts[:-1], tmp_path / "s.wav")
    spread = spread_words([TimedText(" ".join(sentences), 0, now - 0.5)], wav)
    assert [word.start for word in spread if word.text == "This"] == pytest.approx(starts, abs=0.02)
