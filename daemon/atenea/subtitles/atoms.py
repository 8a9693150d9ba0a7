"""Cuts timed words into what a line of subtitles must not tear apart, and finds what stands between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from atenea.speech.sentences import Pause, sentence_ends
from atenea.speech_timing import unspaced
from atenea.timing import TimedText

_LONGEST = 32
"""Characters that are kept together at most. A letter has up to 30 accents, says Unicode's Stream-Safe Text Format; a
text made to harm has more."""

_REACH = 100
"""How far ahead a word is looked for in the text: a voice may leave something out."""

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|[\u2029\f]")

_NEVER_FIRST = frozenset(
    "\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ec6"
    "\u3005\u303b\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u308e\u3095\u3096\u309d\u309e"
    "\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30ee\u30f5\u30f6\u30fc\u30fd\u30fe"
)
"""Thai and Lao vowels that follow their consonant; small kana and marks that repeat or lengthen."""

_OPENING = "([{\u00ab\u2018\u201a\u201c\u201e\u2039\u3008\u300a\u300c\u300e\u3010\uff08"
_NEVER_LAST = frozenset(_OPENING + "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4\u1039\u17d2")
"""Beside what opens: Thai and Lao vowels before their consonant; what puts a Burmese or Khmer letter below another."""

_ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True)
class Atom:
    """Letters that stay on one line, spoken from `start` to `end` seconds.

    Attributes:
        space: whether a space separates it from the atom before it.
        pause: what ends before it.
    """

    text: str
    start: float
    end: float
    space: bool
    pause: Pause = Pause.NONE

    @property
    def width(self) -> int:
        """In columns; see `width`."""
        return width(self.text)


def width(text: str) -> int:
    """How many columns a text takes: two for a Chinese or Japanese character, one for any other."""
    return len(text) + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def atoms(words: Iterable[TimedText], text: str, widest: int) -> list[Atom]:
    """The words in order, cut where they are wider than `widest` columns.

    Args:
        words: as `spread_words` gives them.
        text: the whole text, which has the spaces and paragraphs between them.
        widest: a line; only a letter with its accents may be wider.
    """
    tied = _tied(list(_opened(list(_placed(words, text)))))
    return [part for atom in _in_sentences(tied) for part in _cut(atom, widest)]


def _placed(words: Iterable[TimedText], text: str) -> Iterator[Atom]:
    """The words with what is between them in the text."""
    position = 0
    for word in words:
        found = text.find(word.text, position, position + _REACH + len(word.text))
        if found < 0:
            # A plugin that timed something else than the text, such as numbers in words.
            yield Atom(*word, space=not unspaced(word.text))
            continue
        between = text[position:found]
        pause = Pause.PARAGRAPH if _BLANK_LINE.search(between) else Pause.NONE
        yield Atom(*word, space=bool(between), pause=pause)
        position = found + len(word.text)


def _opened(found: Sequence[Atom]) -> Iterator[Atom]:
    """The same with opening brackets and quotes moved to what they open."""
    opening = ""
    for atom, following in zip(found, [*found, None][1:], strict=True):
        text, opening = opening + atom.text, ""
        if following and not following.space and (kept := text.rstrip(_OPENING)):
            text, opening = kept, text[len(kept) :]
        yield replace(atom, text=text)


def _tied(found: Iterable[Atom]) -> list[Atom]:
    """The same with those joined that are not to be torn apart."""
    tied: list[Atom] = []
    for atom in found:
        before = tied[-1] if tied else None
        if before and not atom.space and _are_tied(before.text, atom.text):
            tied[-1] = replace(before, text=before.text + atom.text, end=atom.end)
        else:
            tied.append(atom)
    return tied


def _are_tied(text: str, following: str) -> bool:
    return len(text) < _LONGEST and (text[-1] in _NEVER_LAST or following[0] in _NEVER_FIRST)


def _in_sentences(found: Sequence[Atom]) -> Iterator[Atom]:
    """The same, knowing where sentences begin."""
    gaps = ["\n\n" if atom.pause is Pause.PARAGRAPH else " " * atom.space for atom in found]
    parts = [gap + atom.text for gap, atom in zip(gaps, found, strict=True)]
    sentences = {end.position for end in sentence_ends("".join(parts))}
    for atom, end in zip(found, accumulate(map(len, parts)), strict=True):
        if atom.pause is Pause.NONE and end - len(atom.text) in sentences:
            yield replace(atom, pause=Pause.SENTENCE)
        else:
            yield atom


def _cut(atom: Atom, widest: int) -> Iterator[Atom]:
    """The atom, or parts of it that fit."""
    parts = [""]
    for cluster in _clusters(atom.text) if atom.width > widest else [atom.text]:
        if parts[-1] and width(parts[-1] + cluster) > widest:
            parts.append("")
        parts[-1] += cluster
    seconds = (atom.end - atom.start) / len(atom.text)
    done = 0
    before = atom.space, atom.pause
    for part in parts:
        start, done = atom.start + done * seconds, done + len(part)
        yield Atom(part, start, atom.start + done * seconds, *before)
        before = False, Pause.NONE


def _clusters(text: str) -> list[str]:
    """Letters with their accents, and emoji with what changes them."""
    clusters = [text[0]]
    for character in text[1:]:
        if _belongs(clusters[-1], character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _belongs(cluster: str, character: str) -> bool:
    """Whether the character belongs to the cluster: the greater part of Unicode's rules (UAX 29)."""
    if len(cluster) >= _LONGEST:
        return False
    if unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf"} or cluster[-1] == _ZERO_WIDTH_JOINER:
        return True
    skin_colour = "\U0001f3fb" <= character <= "\U0001f3ff"
    second_of_flag = len(cluster) == 1 and all(
        "\U0001f1e6" <= letter <= "\U0001f1ff" for letter in (cluster, character)
    )
    hangul_vowel = "\u1160" <= character <= "\u11ff"
    return skin_colour or second_of_flag or hangul_vowel or cluster[-1] in _NEVER_LAST
