"""Whether a transcript says what the text says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atenea.speech.wording import differences

SAME = [
    ("Hello, World!", "hello world"),
    ("It's late; I'm off.", "It is late. I am off."),
    ("They don't, won't and can't.", "They do not, will not and cannot."),
    ("She\u2019d gone.", "She had gone."),
    ("He'll say we've won.", "He will say we have won."),
    ("It has 42 rooms.", "It has forty-two rooms."),
    ("We counted one hundred and five.", "We counted 105."),
    (
        "In 1999 and in 2024 and in 1900 and in 2005.",
        "In nineteen ninety-nine and in twenty twenty-four and in nineteen hundred and in two thousand and five.",
    ),
    ("The 1990s were on the 3rd floor.", "The nineteen nineties were on the third floor."),
    ("It was $5, or 1,500 in all.", "It was five dollars, or fifteen hundred in all."),
    ("It was $3 million.", "It was three million dollars."),
    ("The number is 3.14.", "The number is three point one four."),
    ("At 10:30 on 3/4 of it.", "At ten thirty on three quarters of it."),
    ("100% of R&D.", "One hundred percent of R and D."),
    ("Dr. Smith of St. Paul vs. Mr. Jones", "Doctor Smith of Saint Paul versus Mister Jones"),
    ("The e-mail was on-line in the U.S. every day.", "The email was online in the US everyday."),
    ("On May 5 we met.", "On May fifth we met."),
    ("Na\u00efve caf\u00e9", "Nai\u0308ve cafe\u0301"),
    (
        "Ella tiene 42 a\u00f1os y vive en la calle Mayor de Madrid.",
        "Ella tiene cuarenta y dos a\u00f1os y vive en la calle Mayor de Madrid.",
    ),
    (
        "Er hat am 3. Oktober 1990 gefeiert, und zwar mit allen.",
        "Er hat am dritten Oktober neunzehnhundertneunzig gefeiert, und zwar mit allen.",
    ),
    ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d \u4e16\u754c"),
]

DIFFERENT = [
    ("Hello, World!", "Sure! Here it is: Hello, World!", "'sure here it \u2026' was added"),
    ("Do not touch the lever.", "Do touch the lever.", "'not' is missing"),
    ("It has 42 rooms.", "It has forty-three rooms.", "'42' became 'forty three'"),
    ("It has 42 rooms.", "It has 43 rooms.", "'42' became '43'"),
    ("We utilise the room for it.", "We use the room for it.", "'utilise' became 'use'"),
    ("The cat is on the mat.", "", "'the cat is \u2026' is missing"),
    ("I can go with you.", "I can't go with you.", "'can' became 'can't'"),
    ("What is the capital of the land?", "The capital of the land is Paris.", None),
    (
        "Ella tiene un perro y vive en la calle Mayor de Madrid.",
        "Claro que s\u00ed, aqu\u00ed va: Ella tiene un perro y vive en la calle Mayor de Madrid.",
        None,
    ),
    ("\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u4f60\u597d\u3002", None),
]


@pytest.mark.parametrize(("text", "transcript"), SAME)
def test_other_ways_to_write_the_same(text, transcript):
    assert differences(text, transcript) == []


@pytest.mark.parametrize(("text", "transcript"), SAME)
def test_it_does_not_matter_which_side_writes_how(text, transcript):
    assert differences(transcript, text) == []


@pytest.mark.parametrize(("text", "transcript", "said"), DIFFERENT)
def test_other_words(text, transcript, said):
    found = differences(text, transcript)
    assert found
    assert said is None or found == [said]


@given(st.text(max_size=200))
def test_every_text_says_what_it_says(text):
    assert differences(text, text) == []
    assert differences(text, text.upper().lower()) == differences(text, text.upper().lower())


@given(st.integers(0, 10**15 - 1))
def test_numbers_are_compared_as_numbers(number):
    from atenea.speech.wording import _cardinal

    spoken = " ".join(_cardinal(number))
    assert differences(f"There are {number} of them in the box.", f"There are {spoken} of them in the box.") == []
    assert differences(f"There are {number} of them in the box.", f"There are {number + 1} of them in the box.") != []


@given(st.lists(st.sampled_from(["a", "of", "42", "it's", "x", "don't", "forty", "two"]), min_size=1, max_size=60))
def test_a_dropped_half_is_noticed(parts):
    text = "the story begins here and " + " ".join(parts)
    assert differences(text, "the story begins") != []
