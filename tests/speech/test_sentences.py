"""Cutting texts into pieces."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atenea.speech.sentences import Pause, sentence_ends, split

TEXTS = st.text(
    st.sampled_from("abcXY12 .!?\n\t,;\u3002\uff01\u2026\"')\u201d\u00bf\u00e9\u0301\u200d\u6f22\r\u2029-"),
    max_size=400,
)


def ends(text):
    """What stands before each end of a sentence; at the end of the text there is always one."""
    return [text[: end.position].rstrip()[-12:] for end in sentence_ends(text)]


@given(st.one_of(TEXTS, st.text(max_size=300)), st.integers(1, 120))
def test_every_character_is_in_exactly_one_piece(text, limit):
    pieces = split(text, limit)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)
    assert all(len(piece.text.strip()) <= limit for piece in pieces)
    # A paragraph separator and a form feed are spoken as two line ends.
    assert all(len(piece.spoken) <= limit + len(re.findall("[\u2029\f]", piece.text)) for piece in pieces)
    if pieces:
        assert pieces[-1].pause is Pause.PARAGRAPH


@given(
    st.lists(
        st.sampled_from(["Yes.", "Why not?", "\u00bfQu\u00e9 tal?", "He left!", "So be it\u2026"]),
        min_size=1,
        max_size=30,
    )
)
def test_pieces_end_where_sentences_end(parts):
    pieces = split(" ".join(parts), 30)
    assert all(piece.pause is not Pause.NONE for piece in pieces)
    assert [part for piece in pieces for part in piece.text.split()] == " ".join(parts).split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four\u2026 Five", ["One.", "Two!", "Three?", "Four\u2026"]),
        ("He met Dr. Smith and Mrs. Jones. They left.", ["Jones."]),
        ("J. R. R. Tolkien wrote it. I read it.", ["wrote it."]),
        ("It costs 3.14 dollars. No. 5 is No. 1. Good.", ["dollars."]),
        ("In 1999. Then 2000 came.", ["In 1999."]),
        ("He sat. She said no. Art. 5 of Vol. 2 came in Oct. 1990. So.", ["He sat.", "said no.", "1990."]),
        ("At 5 p.m. Eastern, e.g. U.S. Standard. Yes.", ["Standard."]),
        ("See www.example.com. Then mail a.b@example.com. Done.", ["example.com.", "example.com."]),
        ("Read https://example.com/a?b=c.d!e#f now. Done.", ["now."]),
        ("\u201cStop!\u201d he said. \u201cWhy?\u201d She ran.", ["he said.", "\u201cWhy?\u201d"]),
        ('He said "no." (Really.) Then he left.', ['"no."', "(Really.)"]),
        ("Wait... what? Well... Then go.", ["what?", "Well..."]),
        (
            "\u00bfQu\u00e9 tal? \u00a1Muy bien! El Sr. Garc\u00eda vino. \u00bfY Vd. qu\u00e9?",
            ["tal?", "bien!", "vino."],
        ),
        ("Am 3. Oktober z. B. in Berlin. Bzw. nicht.", ["Berlin."]),
        (
            "\u4f60\u597d\u3002\u518d\u89c1\uff01\u300c\u8d70\u5427\u3002\u300d\u597d",
            ["\u597d\u3002", "\u89c1\uff01", "\u300d"],
        ),
        ("\u0939\u093e\u0901\u0964 \u0928\u0939\u0940\u0902\u0964 \u0916\u0924\u094d\u092e", ["\u0964", "\u0964"]),
        ("No end at all", []),
        ("Huh?! Yes!!! What\u203d OK", ["Huh?!", "Yes!!!", "What\u203d"]),
    ],
)
def test_where_sentences_end(text, expected):
    found = ends(text)
    assert len(found) == len(expected), found
    assert all(end.endswith(wanted[-12:]) for end, wanted in zip(found, expected, strict=True)), found


def test_a_paragraph_of_some_length_stands_alone():
    paragraph = "A sentence of some length, as they come. " * 15
    pieces = split(f"{paragraph}\n\n{paragraph}\n \nShort.\n\nShorter.\n\n{paragraph}")
    assert [piece.pause for piece in pieces] == [Pause.PARAGRAPH] * len(pieces)
    assert len(pieces) == 3
    assert pieces[2].spoken.startswith("Short.\n\nShorter.\n\nA sentence")


def test_a_change_in_one_paragraph_leaves_the_others_as_they_were():
    paragraphs = [f"Paragraph {number} has a sentence. " * 25 for number in range(10)]
    before = [piece.spoken for piece in split("\n\n".join(paragraphs))]
    paragraphs[3] = "Something new stands here now. " * 30
    after = [piece.spoken for piece in split("\n\n".join(paragraphs))]
    assert len(set(before) - set(after)) == 1


def test_pauses():
    pieces = split("One two three. Four five six.\n\nSeven eight nine, ten eleven twelve thirteen", 20)
    assert [(piece.spoken, piece.pause) for piece in pieces] == [
        ("One two three.", Pause.SENTENCE),
        ("Four five six.", Pause.PARAGRAPH),
        ("Seven eight nine,", Pause.NONE),
        ("ten eleven twelve", Pause.NONE),
        ("thirteen", Pause.PARAGRAPH),
    ]


def test_a_sentence_that_is_too_long_is_cut_where_it_hurts_least():
    assert [piece.text for piece in split("aaaa bbbb, cccc dddd eeee", 15)] == ["aaaa bbbb, ", "cccc dddd eeee"]
    assert [piece.text for piece in split("aaaaaaaaaa bbbbbbbbbb", 15)] == ["aaaaaaaaaa ", "bbbbbbbbbb"]
    assert [piece.text for piece in split("1,000,000,000 3.1415926", 15)] == ["1,000,000,000 ", "3.1415926"]
    assert [piece.text for piece in split("a" * 25, 10)] == ["a" * 10, "a" * 10, "a" * 5]
    assert [piece.text for piece in split("a" * 9 + "e\u0301" + "a", 10)] == ["a" * 9, "e\u0301a"]
    assert [piece.text for piece in split("\u4e00\u4e8c\u4e09\uff0c\u56db\u4e94\u516d\u4e03", 6)] == [
        "\u4e00\u4e8c\u4e09\uff0c",
        "\u56db\u4e94\u516d\u4e03",
    ]


def test_what_is_spoken_has_no_needless_space_and_no_control_characters():
    (piece,) = split(" Hard\nwrapped  lines.\x07\ufeff \r\n\r\n  A new\tparagraph. ")
    assert piece.spoken == "Hard wrapped lines.\n\nA new paragraph."


@pytest.mark.parametrize(
    ("text", "speech"), [("***", False), ("\u2026 \u2014 !", False), ("___", False), ("5", True), ("\u20ac", True)]
)
def test_what_is_speech(text, speech):
    assert split(text)[0].is_speech is speech


@pytest.mark.parametrize(
    "text", ["." * 200_000, " \n" * 100_000, ". " * 100_000, "\n" * 200_000, "a" * 200_000, '."' * 99_999]
)
def test_no_text_takes_long(text):
    started = time.process_time()  # of this process, however busy the machine is
    assert "".join(piece.text for piece in split(text)) == text
    assert time.process_time() - started < 10
