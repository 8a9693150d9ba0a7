"""Does a transcript say what the text says?

Models that converse may reword what they read. Both sides are cut into words without case and punctuation, and laid
side by side; where they differ, the difference may still be one of writing only: "it's" and "it is", "42" and
"forty-two", "Dr." and "doctor", "e-mail" and "email". Those rules are English. In other languages a number may be
written out in any words, and a few single words may differ; a whole phrase more or less is noticed in every language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import product
from typing import NamedTuple

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    rf"\d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s)?(?![^\W\d_])|[{_UNSPACED}]|\d+|[^\W\d_{_UNSPACED}]+(?:'[^\W\d_]+)*"
)
_MONEY = re.compile(r"([$\u20ac\u00a3\u00a5])\s?(\d[\d.,]*\d|\d)((?:\s(?:thousand|million|billion|trillion))?)")
_CURRENCIES = {"$": "dollars", "\u20ac": "euros", "\u00a3": "pounds", "\u00a5": "yen"}
_SYMBOLS = {"%": "percent", "&": "and", "+": "plus", "=": "equals", "@": "at", "\u00b0": "degrees"}
_APOSTROPHES = str.maketrans("\u2018\u2019\u02bc\u00b4`", "'''''")

_CONTRACTED = {
    "n't": ("not",),
    "'re": ("are",),
    "'ve": ("have",),
    "'ll": ("will", "shall"),
    "'d": ("would", "had", "did"),
    "'m": ("am",),
    "'s": ("is", "has", "us"),
}
_ALSO = {
    "won't": ("willnot",),
    "can't": ("cannot",),
    "shan't": ("shallnot",),
    "dr": ("doctor", "drive"),
    "mr": ("mister",),
    "mrs": ("missus", "misses"),
    "st": ("saint", "street"),
    "vs": ("versus",),
    "etc": ("etcetera",),
    "no": ("number",),
    "prof": ("professor",),
    "jr": ("junior",),
    "sr": ("senior",),
    "ok": ("okay",),
    "km": ("kilometers", "kilometres"),
    "kg": ("kilograms",),
    "eg": ("forexample",),
    "ie": ("thatis",),
}


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_UNITS = (
    *_listed("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"),
    *_listed("seventeen eighteen nineteen"),
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_NUMBER_WORDS = frozenset(
    {
        *_UNITS,
        *_TENS,
        *_ORDINALS.values(),
        *(word for _, word in _SCALES),
        *_listed("and point oh o o'clock a half halves quarter quarters third thirds to over slash minus percent"),
        *_listed("dollars euros pounds yen cents pence am pm"),
    }
)
_COMMON_ENGLISH = frozenset(
    _listed("the a an of and to in is it that this was for with on are be i you he she we they")
)

_MOST_READINGS = 256
_NUMBER_SPAN = 12
"""Words that a number may take, spoken out in a language that is not known here."""
_LONGEST_SLIP = 2
_SLIPS = 0.05
"""In other languages than English: how many words in a row, and which part of all, may differ."""
_SHOWN = 3


class _Place(NamedTuple):
    """Positions of words, in the text and in the transcript."""

    start: int
    end: int
    heard: int
    heard_end: int


_Stretch = tuple[list[str], list[str]]
"""Words of the text, and what was heard instead."""


def differences(text: str, transcript: str) -> list[str]:
    """What the transcript says otherwise than the text, in a few words each; empty if it says the same."""
    wanted, heard = words(text), words(transcript)
    if _glued(wanted) == _glued(heard):
        return []
    found = [stretch for near in _unequal(wanted, heard) for stretch in _not_the_same(near, wanted, heard)]
    if not _is_english(wanted):
        found = _without_slips(found, len(wanted))
    return [_described(left, right) for left, right in found]


def words(text: str) -> list[str]:
    """The words of a text as they are compared; in scripts without spaces, characters."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    plain = _MONEY.sub(lambda match: f"{match[2]}{match[3]} {_CURRENCIES[match[1]]} ", plain)
    for symbol, word in _SYMBOLS.items():
        plain = plain.replace(symbol, f" {word} ")
    return [_plain_number(match[0]) for match in _WORD.finditer(plain)]


def _plain_number(word: str) -> str:
    return word.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", word) else word


def _unequal(wanted: list[str], heard: list[str]) -> Iterator[list[_Place]]:
    """Where the two differ; places with no more than one equal word between them come together."""
    near: list[_Place] = []
    for tag, *place in SequenceMatcher(None, wanted, heard, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        here = _Place(*place)
        if near and here.start - near[-1].end > 1:
            yield near
            near = []
        near.append(here)
    if near:
        yield near


def _not_the_same(near: list[_Place], wanted: list[str], heard: list[str]) -> list[_Stretch]:
    """Those that are no two ways to write the same, each alone or, with the words between them, all together."""
    stretches = [(wanted[place.start : place.end], heard[place.heard : place.heard_end]) for place in near]
    found = [stretch for stretch in stretches if not _same(*stretch)]
    whole = wanted[near[0].start : near[-1].end], heard[near[0].heard : near[-1].heard_end]
    return [] if len(near) > 1 and _same(*whole) else found


def _same(left: list[str], right: list[str]) -> bool:
    """Whether two stretches are two ways to write the same."""
    if _readings(left) & _readings(right):
        return True
    for digits, spoken in ((left, right), (right, left)):
        numbers = [word for word in digits if word[0].isdigit()]
        if not numbers or any(word[0].isdigit() for word in spoken):
            continue
        # Times, dates, fractions and sums are read in too many ways to list them.
        free = any(not word.isdigit() for word in numbers) or not _NUMBER_WORDS.intersection(spoken)
        written_out = all(word in _NUMBER_WORDS for word in spoken) or not _NUMBER_WORDS.intersection(spoken)
        if free and written_out and 0 < len(spoken) <= _NUMBER_SPAN * len(numbers) and len(numbers) == len(digits):
            return True
    return False


def _readings(stretch: Sequence[str]) -> set[str]:
    """Every way to write the stretch that is known here, without spaces and apostrophes."""
    choices = [_choices(word) for word in stretch]
    count = 1
    for options in choices:
        count *= len(options)
    readings = {_glued(stretch)}
    if count <= _MOST_READINGS:
        readings.update("".join(reading) for reading in product(*choices))
    if any(word in _NUMBER_WORDS or word[0].isdigit() for word in stretch) and "and" in stretch:
        readings |= _readings([word for word in stretch if word != "and"])
    return readings


def _choices(word: str) -> set[str]:
    found = {word.replace("'", ""), *_ALSO.get(word, ())}
    for ending, meanings in _CONTRACTED.items():
        if word.endswith(ending) and len(word) > len(ending):
            found.update(word.removesuffix(ending).replace("'", "") + meaning for meaning in meanings)
    if match := re.fullmatch(r"(\d{1,15})(st|nd|rd|th|s)?", word):
        found.update(_spoken_number(int(match[1]), match[1], match[2] or ""))
    if match := re.fullmatch(r"(\d{1,15})\.(\d+)", word):
        found.add("".join(_cardinal(int(match[1]))) + "point" + "".join(_UNITS[int(digit)] for digit in match[2]))
    return found


def _spoken_number(number: int, digits: str, ending: str) -> Iterator[str]:
    cardinal = _cardinal(number)
    if ending in {"st", "nd", "rd", "th"}:
        yield "".join(_ordinal(cardinal))
        return
    plural = ending  # "1990s" are the nineteen nineties
    ways = [cardinal, [_UNITS[int(digit)] for digit in digits]]
    if len(digits) == 4 and number % 1000:
        century, year = _cardinal(number // 100), _cardinal(number % 100)
        ways.append([*century, *(["hundred"] if not number % 100 else ["oh", *year] if number % 100 < 10 else year)])
    for way in ways:
        spoken = "".join(way)
        yield (spoken[:-1] + "ies" if spoken.endswith("y") else spoken + "s") if plural else spoken
    if not ending:
        yield "".join(_ordinal(cardinal))  # "May 5" is often read as the fifth


def _cardinal(number: int) -> list[str]:
    if number < 20:
        return [_UNITS[number]]
    if number < 100:
        return [_TENS[number // 10 - 2], *([_UNITS[number % 10]] if number % 10 else [])]
    size, scale = next(entry for entry in _SCALES if number >= entry[0])
    rest = number % size
    return [*_cardinal(number // size), scale, *(_cardinal(rest) if rest else [])]


def _ordinal(cardinal: list[str]) -> list[str]:
    last = cardinal[-1]
    return [*cardinal[:-1], _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")]


def _is_english(wanted: list[str]) -> bool:
    common = sum(word in _COMMON_ENGLISH for word in wanted)
    return common >= len(wanted) / 10 or (len(wanted) < 10 and all(word.isascii() for word in wanted))


def _without_slips(found: list[_Stretch], count: int) -> list[_Stretch]:
    """The differences that matter where the rules of a language are not known."""
    slips = [pair for pair in found if max(map(len, pair)) <= _LONGEST_SLIP]
    if sum(max(map(len, pair)) for pair in slips) > count * _SLIPS:
        return found
    return [pair for pair in found if pair not in slips]


def _described(left: list[str], right: list[str]) -> str:
    if not left:
        return f"{_quoted(right)} was added"
    return f"{_quoted(left)} became {_quoted(right)}" if right else f"{_quoted(left)} is missing"


def _quoted(stretch: list[str]) -> str:
    shown = " ".join(stretch[:_SHOWN])
    return f"'{shown} \u2026'" if len(stretch) > _SHOWN else f"'{shown}'"


def _glued(stretch: Sequence[str]) -> str:
    return "".join(stretch).replace("'", "")
