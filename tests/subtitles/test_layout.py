"""What stands in a cue, where its lines break, and when it is shown."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atenea import TimedText
from atenea.speech_timing import words
from atenea.subtitles.atoms import atoms, width
from atenea.subtitles.layout import LONGEST, SHORTEST, Cue, Shape, cues


def spoken(text: str, letters_per_second: float = 15.0, pauses: dict[str, float] | None = None) -> list[TimedText]:
    """The words, each for as long as its letters say; a pause after those words that are named."""
    timed, now = [], 0.0
    for word in words(text):
        end = now + len(word) / letters_per_second
        timed.append(TimedText(word, now, end))
        now = end + (pauses or {}).get(word, 0.0)
    return timed


NORMAL = Shape()


def laid(text: str, shape: Shape = NORMAL, **more: float) -> list[Cue]:
    timed = spoken(text, **more)
    return cues(atoms(timed, text, shape.columns), shape, timed[-1].end)


def lines(text: str, shape: Shape = NORMAL, **more: float) -> list[tuple[str, ...]]:
    return [cue.lines for cue in laid(text, shape, **more)]


def test_a_cue_for_each_sentence():
    text = "This is the first of the sentences. And this one comes right behind it."
    assert lines(text) == [("This is the first of the sentences.",), ("And this one comes right behind it.",)]


def test_it_begins_and_ends_with_its_words():
    text = "This is the first of the sentences. And this one comes right behind it."
    first, second = laid(text)
    timed = spoken(text)
    assert (first.start, first.end) == pytest.approx((0, timed[6].end), abs=0.001)
    assert (second.start, second.end) == pytest.approx((timed[7].start, timed[-1].end), abs=0.001)


def test_long_sentences_are_cut_at_commas_and_lines_are_even():
    text = (
        "When the ferry left the harbour in the early morning, nobody on board had seen the storm coming, "
        "although the captain said that he had."
    )
    assert lines(text) == [
        ("When the ferry left the", "harbour in the early morning,"),
        ("nobody on board had seen the storm coming,", "although the captain said that he had."),
    ]


def test_short_sentences_stay_together():
    assert lines("Yes. No. Perhaps.") == [("Yes. No. Perhaps.",)]


def test_an_abbreviation_ends_no_sentence():
    text = "We were seen at half past nine by Dr. Miller and his two daughters, who lived there."
    assert not any(cue[-1].endswith("Dr.") for cue in lines(text, Shape(30, 2)))


def test_paragraphs_and_silences_are_never_in_one_cue():
    assert lines("Chapter One\n\nIt rained.") == [("Chapter One",), ("It rained.",)]
    assert lines("wait for it", pauses={"for": 2.0}) == [("wait for",), ("it",)]


def test_short_cues_stay_for_a_second_where_there_is_room():
    first, second = laid("Stop!\n\nGo!", pauses={"Stop!": 0.4})
    assert (first.start, first.end) == (0.0, pytest.approx(5 / 15 + 0.4, abs=0.001))
    assert second.end == pytest.approx(5 / 15 + 0.4 + 3 / 15, abs=0.001)
    [alone] = cues(atoms(spoken("Stop!"), "Stop!", 42), Shape(), 60.0)
    assert (alone.start, alone.end) == (0.0, SHORTEST)


def test_no_cue_is_longer_than_seven_seconds():
    text = "one two three four five six seven eight nine ten eleven twelve"
    shown = laid(text, letters_per_second=2.5)
    assert len(shown) > 2
    assert all(cue.end - cue.start <= LONGEST for cue in shown)
    [endless] = cues(atoms([TimedText("Ommm", 0.0, 20.0)], "Ommm", 42), Shape(), 20.0)
    assert (endless.start, endless.end) == (0.0, 7.0)


def test_one_line_and_three_lines():
    text = "The quick brown fox jumps over the lazy dog"
    assert lines(text, Shape(16, 1)) == [("The quick brown",), ("fox jumps over",), ("the lazy dog",)]
    assert lines(text, Shape(16, 3)) == [("The quick brown", "fox jumps over", "the lazy dog")]


def test_a_word_that_is_wider_than_a_line_is_cut():
    assert lines("Donaudampfschifffahrt", Shape(10, 3)) == [("Donaudampf", "schifffahr", "t")]


def test_spaces_are_those_of_the_text():
    text = "He said “你好 , 世界” to her , twice"
    assert lines(text) == [(text,)]


def test_a_text_that_the_plugin_timed_otherwise_has_spaces_too():
    timed = spoken("the year nineteen eighty four was long")
    [cue] = cues(atoms(timed, "the year 1984 was long", 42), Shape(), timed[-1].end)
    assert cue.lines == ("the year nineteen eighty four was long",)


def test_chinese_breaks_between_characters_and_after_marks():
    text = "今天我们来谈谈人工智能的历史\uff0c它的起源可以追溯到二十世纪五十年代。"
    assert lines(text, letters_per_second=5) == [
        ("今天我们来谈谈人工智能的历史\uff0c", "它的起源可以追溯到二十世纪五十年代。")
    ]


def test_japanese_lines_begin_with_no_mark_and_end_with_no_bracket():
    text = "彼は「コンピューターちゃんと考えることができるっ」といった。" * 3
    found = [line for cue in lines(text, Shape(12, 2), letters_per_second=6) for line in cue]
    assert "".join(found) == text
    assert not [line for line in found if line[0] in "」。ーュャっ" or line[-1] == "「"]


def test_thai_vowels_stay_with_their_consonants():
    text = "แม่น้ำไหลเชี่ยวกรากในฤดูฝนทำให้เรือแล่นไม่ได้"
    found = [line for cue in lines(text, Shape(10, 2)) for line in cue]
    assert "".join(found) == text
    for line in found:
        assert unicodedata.category(line[0]) != "Mn" and line[0] not in "ะาำ" and line[-1] not in "เแโใไ"


@pytest.mark.parametrize(
    "cluster", ["e\u0301\u0323", "👩🏽\u200d🚀", "🇩🇪", "क्\u200dषि", "\u1112\u1161\u11ab", "❤\ufe0f"]
)
def test_what_is_one_letter_is_not_torn(cluster):
    found = [line for cue in lines(cluster * 20, Shape(10, 2)) for line in cue]
    assert "".join(found) == cluster * 20
    assert all(line == cluster * (len(line) // len(cluster)) for line in found)


@pytest.mark.parametrize(
    "text", ["e" + "\u0301" * 50_000, "\u30fc" * 50_000, "(" * 50_000 + "a", "." * 50_000 + "a", "a" * 50_000]
)
def test_texts_made_to_harm_are_cut_all_the_same(text):
    shape = Shape()
    shown = laid(text, shape, letters_per_second=10_000)
    assert "".join(line for cue in shown for line in cue.lines) == text
    assert max(width(line) for cue in shown for line in cue.lines) <= shape.columns


def test_right_to_left_stays_as_it_is():
    text = "מה שלומך היום? אני בסדר גמור, תודה."
    assert " ".join(line for cue in lines(text) for line in cue) == text


def test_nothing_spoken():
    assert cues([], Shape(), 1.0) == []


def test_what_was_cut_away_is_not_shown():
    timed = [TimedText("gone", -1.0, 0.0), TimedText("heard", 0.5, 2.5), TimedText("late", 3.0, 4.0)]
    assert cues(atoms(timed, "gone heard late", 42), Shape(), 3.0) == [Cue(0.5, 2.5, ("heard",))]


def test_times_that_make_no_sense():
    timed = [TimedText(word, 1.0, 1.0) for word in ("all", "at", "the", "same")]
    shown = cues(atoms(timed, "all\n\nat\n\nthe\n\nsame", 42), Shape(), 1.5)
    assert [(cue.start, cue.end) for cue in shown] == [(1.0, 1.001), (1.001, 1.002), (1.002, 1.003), (1.003, 1.5)]


TEXTS = st.lists(
    st.text(st.sampled_from("abcdefgh éß,.;!?-—中文。、「」กำเค้שלم<>&1"), min_size=1, max_size=30),
    min_size=1,
    max_size=12,
)


@given(
    paragraphs=TEXTS,
    gap=st.sampled_from([" ", "\n", "\n\n"]),
    durations=st.lists(st.tuples(st.floats(0.02, 3), st.floats(0, 2)), min_size=1, max_size=20),
    shape=st.builds(Shape, st.integers(10, 50), st.integers(1, 3)),
)
@settings(max_examples=150, deadline=None)
def test_bounds_order_and_every_word_once(paragraphs, gap, durations, shape):
    text, timed, now = gap.join(paragraphs), [], 0.0
    for number, word in enumerate(words(text)):
        duration, pause = durations[number % len(durations)]
        timed.append(TimedText(word, now, now + duration))
        now += duration + pause
    parts = atoms(timed, text, shape.columns)
    shown = cues(parts, shape, now)

    assert "".join(cue.text for cue in shown).replace("\n", "").replace(" ", "") == "".join(text.split())
    for cue in shown:
        assert 1 <= len(cue.lines) <= shape.lines
        assert all(line == line.strip() and 0 < width(line) <= shape.columns for line in cue.lines)
        assert 0 <= cue.start < cue.end <= now + 0.001
        assert cue.end - cue.start <= LONGEST + 0.001
    for cue, following in pairwise(shown):
        assert cue.end <= following.start
        assert cue.end - cue.start >= min(SHORTEST, following.start - cue.start) - 0.001
    starts = {round(part.start, 3) for part in parts}
    assert all(cue.start in starts for cue in shown)
