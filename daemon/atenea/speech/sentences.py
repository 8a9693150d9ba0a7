"""Cuts a text into pieces that a voice can speak one by one.

Pieces end where a reader pauses: at a paragraph's end if they are long enough there, or else at the last sentence end
that fits; only a sentence that is too long itself is cut, at a comma, a space, or anywhere. A paragraph of some length
is never joined with the next one, so that a change in one leaves the pieces of the others, and what a cache has of
them, as they were.

Ends of sentences are found by rules that rather miss one than see one too many: a missed one is spoken as part of a
longer piece, a wrong one is heard as a pause in the middle of a sentence.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import NamedTuple

PIECE_CHARACTERS = 1500
"""Servers take 4096 characters or 2000 tokens; longer pieces are spoken worse, and cost more when they fail."""

_CLOSING = "\"'\u2019\u201d\u00bb\u203a)\\]}\u300d\u300f\uff09\u3011\u300b\u3009"
_OPENING = re.compile("[\"'\u2018\u201c\u201e\u201a\u00ab\u2039(\\[{\u00bf\u00a1*_\u2013\u2014\\s-]*")
_MARKS = ".!?\u2026\u203d\u061f\u06d4\u0964\u0965\u0589\u1362"
_FULL_MARKS = "\u3002\uff01\uff1f\uff61"
"""Marks of Chinese and Japanese, which no space follows."""

# Possessive, and never started in the middle of a run: a million dots must not take a million times a million steps.
_END = re.compile(
    rf"(?<![{_FULL_MARKS}])[{_FULL_MARKS}]++[{_CLOSING}]*+(?P<full_gap>\s*+)"
    rf"|(?<![{_MARKS}])(?P<mark>[{_MARKS}]++)[{_CLOSING}]*+(?P<gap>\s++)"
    r"|(?P<blank>\n[^\S\n]*+\n\s*+|[\u2029\f]\s*+)"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*+\n|[\u2029\f]")
_CLAUSE_END = re.compile(rf"[,;:\u2013\u2014\u060c\u061b][{_CLOSING}]*+\s++|[\uff0c\u3001\uff1b\uff1a]")
_WORD_BEFORE = re.compile(r"[^\s(\[{\"'\u2018\u201c\u201e\u00ab\u00bf\u00a1/\u2013\u2014-]+\Z")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
_LONGEST_WORD = 24
_SPEECH = re.compile(r"[^\W_]|[\u20ac$\u00a3\u00a5%&+=@\u00b0]")


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_ABBREVIATIONS = (
    # English
    _listed("mr mrs ms dr prof rev fr sr jr st mt ft gen col lt sgt capt cmdr hon gov rep pres vs etc eg ie cf al")
    | _listed("approx dept est inc ltd co corp bros ave blvd rd")
    # Spanish, Portuguese, French, Italian
    | _listed("sra sres dra ud uds vd vds av avda izq dcha tel mme mlle mm ex env sig dott")
    # German, Dutch
    | _listed("bzw usw ca str evtl ggf inkl mio mrd vgl zzgl hr dhr mevr bijv")
)
_BEFORE_NUMBERS = _listed(
    "no nos fig figs vol vols pp ed eds ch sec art nr nº núm pág págs jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations that are words as well: "No. 5", but "He said no.\""""


class Pause(Enum):
    """What comes after a piece."""

    NONE = "none"
    """The sentence goes on."""
    SENTENCE = "sentence"
    PARAGRAPH = "paragraph"


@dataclass(frozen=True)
class Piece:
    """A part of the text, white space and all: the texts of all pieces together are the whole."""

    text: str
    pause: Pause

    @property
    def spoken(self) -> str:
        """What to speak: without control characters, with no more white space than separates words and paragraphs."""
        text = "".join(character for character in self.text if character.isspace() or _is_printable(character))
        return "\n\n".join(filter(None, (" ".join(part.split()) for part in _BLANK_LINE.split(text))))

    @property
    def is_speech(self) -> bool:
        """Whether there is anything to speak in it, and not only marks."""
        return bool(_SPEECH.search(self.text))


class End(NamedTuple):
    """Where a piece may end: after the white space there, which is where the next one begins."""

    position: int
    pause: Pause


def split(text: str, limit: int = PIECE_CHARACTERS) -> list[Piece]:
    """The text in pieces of at most `limit` characters (at least 1), not counting white space around a piece."""
    ends = [*sentence_ends(text), End(len(text), Pause.PARAGRAPH)]
    positions = [end.position for end in ends]
    pieces: list[Piece] = []
    start = 0
    while start < len(text):
        end = _choose(text, start, islice(ends, bisect_right(positions, start), None), limit)
        pieces.append(Piece(text[start : end.position], end.pause))
        start = end.position
    return pieces


def _choose(text: str, start: int, ends: Iterable[End], limit: int) -> End:
    chosen: End | None = None
    begin = _skip_space(text, start)
    for end in ends:
        length = _strip_end(text, begin, end.position) - begin
        if length > limit:
            break
        chosen = end
        if end.pause is Pause.PARAGRAPH and length >= limit // 3:
            break
    return chosen or End(_cut_inside(text, begin, limit), Pause.NONE)


def _cut_inside(text: str, begin: int, limit: int) -> int:
    """Where to cut a sentence that is longer than `limit` characters from `begin`."""
    stop = begin + limit
    clauses = (match.end() for match in _CLAUSE_END.finditer(text, begin + limit // 4, stop))
    if clause := max(clauses, default=0):
        return _skip_space(text, clause)
    for position in range(stop, begin, -1):
        if text[position].isspace():
            return _skip_space(text, position)
    return _between_letters(text, begin, stop)


def _between_letters(text: str, begin: int, stop: int) -> int:
    """The last position up to `stop` that tears no letter from its accents, and no emoji apart."""
    for position in range(stop, begin, -1):
        if not (unicodedata.category(text[position]) in {"Mn", "Mc", "Me", "Cf"} or text[position - 1] == "\u200d"):
            return position
    return stop


def sentence_ends(text: str) -> Iterator[End]:
    """Where sentences and paragraphs end, in order; not the end of the text."""
    for match in _END.finditer(text):
        gap = match["full_gap"] or match["gap"] or match["blank"] or ""
        if _BLANK_LINE.search(gap):
            yield End(match.end(), Pause.PARAGRAPH)
        elif match["mark"] is None or _ends_sentence(text, match):
            yield End(match.end(), Pause.SENTENCE)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    opening = _OPENING.match(text, match.end())
    position = opening.end() if opening else match.end()
    following = text[position : position + 1]
    if following.islower():
        return False
    return match["mark"] != "." or not _is_abbreviation(text, match.start(), following)


def _is_abbreviation(text: str, dot: int, following: str) -> bool:
    before = _WORD_BEFORE.search(text, max(0, dot - _LONGEST_WORD), dot)
    word = before[0].casefold() if before else ""
    initial = len(word) == 1 and word.isalpha()
    number_in_order = word.isdigit() and len(word) <= 2
    known = word in _ABBREVIATIONS or (word in _BEFORE_NUMBERS and following.isdigit())
    return initial or number_in_order or known or _DOTTED.fullmatch(word) is not None


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _strip_end(text: str, begin: int, end: int) -> int:
    while end > begin and text[end - 1].isspace():
        end -= 1
    return end


def _is_printable(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cs", "Cn"} and character != "\ufeff"
